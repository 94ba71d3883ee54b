"""Rows of the recipe: how long, in which portions, optimizer, learning rate, clipping."""

from firstlight.compat.row import Rows, converted, ignored, refused, renamed

_SCHEDULE = "lr_scheduler"
_EPOCHS = "checkpoint.mindformers_files.steps_per_epoch"
_SINK = "of MindSpore's sinking of data into the device"

RUNNER_ROWS: Rows = (
    *converted("epochs", "training.steps", "epochs x (samples // global batch)", "epochs"),
    *renamed("micro_batch_size", "training.micro_batch_size", "batch_size"),
    *converted(
        "accumulation",
        "training.global_batch_size",
        "a factor of it without a pipeline",
        "gradient_accumulation_steps",
    ),
    *converted(
        "stop_step",
        "training.steps",
        "the run ends there (MindFormers builds the callback and does not add it)",
        "stop_step",
    ),
    *converted("sinks", _EPOCHS, "where true, sink_size; where false, the steps of an epoch", "sink_mode"),
    *converted("sink_size", _EPOCHS, "-1 is the steps of an epoch", "sink_size"),
    *ignored(_SINK, "per_epoch_size", "initial_epoch"),
    *ignored("of image classifiers", "num_classes", "image_size"),
    *ignored("moved to the top level in later files", "has_trained_epoches", "has_trained_steps"),
)

_MUON = (
    *renamed("momentum", "optimizer.momentum", "momentum"),
    *renamed("is_nesterov", "optimizer.is_nesterov", "nesterov"),
    *renamed("newton_schulz_steps", "optimizer.newton_schulz_steps", "ns_steps"),
    *converted(
        "newton_schulz_coefficients",
        "optimizer.newton_schulz_coefficients",
        "one triple",
        "ns_coefficients",
    ),
    *renamed("rms_scale", "optimizer.rms_scale", "matched_adamw_rms"),
    *renamed("adamw_betas", "optimizer.betas", "adamw_betas"),
    *renamed("adamw_eps", "optimizer.eps", "adamw_eps"),
    *converted("adamw_names", "optimizer.adamw_for", "patterns of names here", "adamw_include"),
    *renamed("qk_clip", "optimizer.qk_clip.threshold", "qk_clip_threshold"),
    *converted(
        "clips_qk", "optimizer.qk_clip", "as written; without it, Muon clips in the older schemas", "qk_clip_enabled"
    ),
    *ignored("how updates are computed on several ranks follows from the layout", "comm_strategy", "use_fused_adamw"),
    *ignored("deprecated in MindFormers", "qkv_split", "micro_batch_num", "op_group"),
)

OPTIMIZER_ROWS: Rows = (
    *converted(
        "optimizer",
        "optimizer.type",
        "AdamW and its fused and fp32-state forms are adamw, PmaAdamW with averages.pma; Muon is muon",
        "type",
    ),
    *renamed("betas", "optimizer.betas", "betas"),
    *converted("beta1", "optimizer.betas", "the first", "beta1"),
    *converted("beta2", "optimizer.betas", "the second", "beta2"),
    *renamed("eps", "optimizer.eps", "eps"),
    *renamed("weight_decay", "optimizer.weight_decay", "weight_decay"),
    *converted(
        "optimizer_learning_rate",
        "optimizer.learning_rate",
        "where the schedule gives none: the schedule's goes before",
        "learning_rate",
    ),
    *converted("optimizer_swap", "offload.optimizer_state", "host where true", "swap"),
    *converted(
        "decayed_names",
        "optimizer.groups",
        "patterns of names here, with weight_decay_ratio 1",
        "weight_decay_include",
    ),
    *converted(
        "undecayed_names",
        "optimizer.groups",
        "patterns of names here, with weight_decay_ratio 0",
        "weight_decay_exclude",
    ),
    *_MUON,
    *ignored(
        "which kernel computes it is no part of the configuration",
        "use_fused",
        "use_parallel",
        "foreach",
        "fused",
        "enable_cpu_offload",
        "memory_optimize",
    ),
    *refused("only decoupled weight decay is there", "amsgrad", "maximize"),
    *renamed("pma_count", "averages.pma.count", "fused_num"),
    *renamed("pma_interval", "averages.pma.interval_steps", "interleave_step"),
    *converted("pma_weighting", "averages.pma.weighting", "sma is mean", "fused_algo"),
    *renamed("pma_alpha", "averages.pma.alpha", "ema_alpha"),
    *refused("this optimizer is not there", "clip_threshold", "decay_rate", "relative_step", "scale_lr", "warmup_init"),
)

SCHEDULE_ROWS: Rows = (
    *converted("schedule", f"{_SCHEDULE}.type", "by name and formula, counted from zero", "type"),
    *renamed("learning_rate", "optimizer.learning_rate", "learning_rate", "base_lr"),
    *renamed("warmup_steps", f"{_SCHEDULE}.warmup_steps", "warmup_steps"),
    *converted(
        "warmup_ratio", f"{_SCHEDULE}.warmup_steps", "of total_steps, rounded down; before warmup_steps", "warmup_ratio"
    ),
    *converted("warmup_epochs", f"{_SCHEDULE}.warmup_steps", "times the steps of an epoch", "warmup_epochs"),
    *converted("warmup_lr_init", f"{_SCHEDULE}.initial_ratio", "divided by learning_rate", "warmup_lr_init"),
    *converted(
        "lr_end",
        f"{_SCHEDULE}.final_ratio",
        "divided by learning_rate; ConstantWarmUpLR does not read it",
        "lr_end",
        "eta_min",
    ),
    *converted(
        "total_steps",
        f"{_SCHEDULE}.decay_steps",
        "the horizon of decays, without the warm-up; -1 is the length of the run",
        "total_steps",
    ),
    *converted(
        "decay_steps",
        f"{_SCHEDULE}.decay_steps",
        "where the end is reached, counted from the run's start",
        "decay_steps",
    ),
    *converted("decay_ratio", f"{_SCHEDULE}.decay_steps", "of total_steps", "decay_ratio"),
    *converted("decay_start_steps", f"{_SCHEDULE}.decay_steps", "where the decline begins", "decay_start_steps"),
    *converted("decay_start_ratio", f"{_SCHEDULE}.decay_steps", "of total_steps", "decay_start_ratio"),
    *converted("num_cycles", f"{_SCHEDULE}.num_waves", "waves, or num_cycles of restarts", "num_cycles"),
    *renamed("power", f"{_SCHEDULE}.power", "power"),
    *renamed("half_wave", f"{_SCHEDULE}.half_wave_steps", "t_max"),
    *renamed("first_cycle", f"{_SCHEDULE}.first_cycle_steps", "t_0"),
    *renamed("cycle_factor", f"{_SCHEDULE}.cycle_factor", "t_mult"),
    *renamed("keep_steps", f"{_SCHEDULE}.stable_steps", "keep_steps"),
    *converted("lr_end1", f"{_SCHEDULE}.middle_ratio", "divided by learning_rate", "lr_end1"),
    *renamed("final_steps", f"{_SCHEDULE}.middle_steps", "final_steps"),
    *converted("lr_end2", f"{_SCHEDULE}.final_ratio", "divided by learning_rate", "lr_end2"),
)

GROUPED_ROWS: Rows = (
    *converted(
        "grouped_rates",
        "optimizer.groups",
        "schedules of one shape, with learning_rate_ratio",
        "grouped.**",
    ),
)

WRAPPER_ROWS: Rows = (
    *converted("is_clipped", "optimizer.max_grad_norm", "null where false", "use_clip_grad"),
    *renamed("max_grad_norm", "optimizer.max_grad_norm", "max_grad_norm"),
    *converted("loss_scale", "training.precision", "of fp16; bf16 and fp32 need none", "scale_sense.**"),
    *ignored("checks are always on: a step that is not finite is skipped", "enable_check_overflow"),
    *ignored("the step is what the layout and the batch make it", "type", "sink_size"),
    *ignored("the norm of all gradients is in the metrics", "local_norm"),
    *ignored("the mean is over all tokens of the global batch", "calculate_per_token_loss"),
)

PYNATIVE_TRAINING_ROWS: Rows = (
    *renamed("steps", "training.steps", "steps"),
    *renamed("micro_batch_size", "training.micro_batch_size", "local_batch_size"),
    *renamed("global_batch_size", "training.global_batch_size", "global_batch_size"),
    *converted("max_norm", "optimizer.max_grad_norm", "null where 0", "max_norm"),
    *converted("run_seed", "training.seed", "where the data has no seed of its own", "seed"),
    *renamed("deterministic", "training.deterministic", "deterministic"),
    *converted(
        "ramp",
        "training.global_batch_size.ramp",
        "where it starts, by how much it grows, and over how many samples",
        "rampup_batch_size",
    ),
)
