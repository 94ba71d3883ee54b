"""Rows of the top level and of what surrounds a run: machine, log, profile, tokenizer, evaluation."""

from firstlight.compat.row import OFF, Rows, converted, ignored, refused, renamed

_DEVICE = "of Ascend devices and MindSpore's graphs"
_PROFILE = "torch's profiler has no such choice"
_WATCH = "monitor_config"
_LIMIT, _LOGITS = "global_norm_spike_threshold", "max_attention_logit_format"
_METRICS = "metrics go to the console, metrics.jsonl and TensorBoard"

GENERAL_ROWS: Rows = (
    *converted("run_mode", "training", "train; finetune where only the weights differ", "run_mode"),
    *converted("run_seed", "training.seed", "where the data has no seed of its own", "seed"),
    *converted("output_folder", "training.output_folder", "as written", "output_dir"),
    *converted("use_parallel", "parallelism", "one process where false", "use_parallel"),
    *converted("interleaved_copies", "training.global_batch_size", "a factor of it", "micro_batch_interleave_num"),
    *converted("deterministic", "training.deterministic", "as written", "train_precision_sync"),
    *converted(
        "config_folder",
        "model",
        "its config.json fills in what the model section leaves out",
        "pretrained_model_dir",
    ),
    *converted("use_legacy", "model", "which generation of keys the file is written in", "use_legacy"),
    *converted("evaluates", "training.evaluate_every_steps", "0 where false", "do_eval"),
    *converted("evaluate_every_steps", "training.evaluate_every_steps", "as written", "eval_step_interval"),
    *converted(
        "learning_rate_is_scaled", "optimizer.learning_rate", "times devices x batch_size / lr_scale_factor", "lr_scale"
    ),
    *converted("learning_rate_scale", "optimizer.learning_rate", "where lr_scale is true", "lr_scale_factor"),
    *converted(
        "skips_by_norm",
        "optimizer.skip_above",
        "steps from monitor_config.global_norm_spike_threshold on",
        "use_skip_data_by_global_norm",
    ),
    *ignored("counted in steps", "eval_epoch_interval"),
    *refused("layers do not decay", "layer_scale"),
    *ignored("read with layer_scale alone", "layer_decay"),
    *ignored("losses are always shown apart", "print_separate_loss"),
    *ignored("checks are always on: a step that is not finite is skipped", "check_for_nan_in_loss_and_grad"),
    *ignored("the mean is over all tokens of the global batch", "calculate_per_token_loss"),
    *ignored("a run that is told to end saves and ends", "use_graceful_exit", "graceful_exit.**"),
    *ignored(
        "weights that are not finite mark a checkpoint as unhealthy",
        "use_checkpoint_health_monitor",
        "health_ckpts_record_dir",
    ),
    *converted("profiles", "monitor.profile", "torch's profiler, where true", "profile"),
    *renamed("profile_first", "monitor.profile.first_step", "profile_start_step"),
    *converted("profile_last", "monitor.profile.num_steps", "the last step; a hundred at most", "profile_stop_step"),
    *converted("profile_ranks", "monitor.profile.ranks", "rank 0 where it says none", "profile_rank_ids"),
    *renamed("profile_memory", "monitor.profile.memory", "profile_memory"),
    *ignored(
        _PROFILE,
        "profile_communication",
        "init_start_profile",
        "profile_pipeline",
        "profile_level",
        "profiler_level",
        "mstx",
        "profile_rank",
    ),
    *ignored("of MindSpore's tuning of data sets", "auto_tune", "filepath_prefix", "autotune_per_step"),
    *ignored("checkpoints are copied to checkpoint.copy_to", "remote_save_url"),
    *ignored(_DEVICE, "exclude_cann_cpu", "moe_config_path", "local_rank", "device_num", "resource"),
    *ignored(
        "used for inference only",
        "infer_precision_sync",
        "postprocess_use_numpy",
        "save_file",
        "input_data",
        "predict_batch_size",
        "adapter_id",
        "infer.**",
        "generation_config.**",
        "vllm_config.**",
        "inference.**",
        "generation.**",
        "trust_remote_code",
    ),
    *ignored("of networks with a second loss", "loss_repeated_mean"),
)

TRAINER_ROWS: Rows = (
    *refused(
        "only CausalLanguageModelingTrainer pretrains a decoder",
        "type",
        unless=(*OFF, "CausalLanguageModelingTrainer", "causal_language_modeling"),
    ),
    *ignored("a name", "model_name", "task_name", "task"),
)

CONTEXT_ROWS: Rows = (
    *ignored("a graph is compiled only in MindSpore", "mode", "jit_config.**", "jit_level"),
    *ignored("the device is the one that is there", "device_target", "device_id"),
    *ignored(
        "PyTorch's allocator takes what it needs",
        "max_device_memory",
        "mempool_block_size",
        "memory_optimize_level",
        "memory_offload.**",
    ),
    *ignored(
        _DEVICE,
        "max_call_depth",
        "save_graphs",
        "save_graphs_path",
        "ascend_config.**",
        "enable_graph_kernel",
        "graph_kernel_flags",
        "enable_compile_cache",
        "compile_cache_path",
        "runtime_num_threads",
        "pynative_synchronize",
        "precompile_only",
        "affinity_cpu_list.**",
        "affinity_config.**",
        "print_file_path",
        "deterministic",
        "param_init_cc",
        "debug_level",
        "inter_op_parallel_num",
        "gpu_config.**",
    ),
    *ignored(
        "one rank of a group reads, where that is faster",
        "dataset_broadcast_opt_level",
        "parallel_speed_up_json_path",
    ),
    *ignored("a run that is told to end saves and ends", "use_graceful_exit"),
)

MODEL_ARCH_ROWS: Rows = (
    *converted("legacy_class", "model.family", "the model's class", "arch.type"),
    *ignored("models are those of the package", "arch.auto_register", "arch.auto_map"),
)

LEGACY_TYPE_ROWS: Rows = converted("legacy_config", "model.family", "the model's class", "type")

WATCH_ROWS: Rows = (
    *converted("norm_limit", "optimizer.skip_above.norm", "with use_skip_data_by_global_norm", f"{_WATCH}.{_LIMIT}"),
    *converted(
        "norm_limit_count",
        "resilience.max_skipped_steps",
        "with use_skip_data_by_global_norm",
        f"{_WATCH}.global_norm_spike_count_threshold",
    ),
    *converted("watches", "monitor.measure", "what it asks for, where true", f"{_WATCH}.monitor_on"),
    *converted("gradient_norms", "monitor.measure", "layers", f"{_WATCH}.local_norm_format"),
    *converted("optimizer_norms", "monitor.measure", "optimizer_state", f"{_WATCH}.optimizer_state_format"),
    *converted("weight_norms", "monitor.measure", "weights", f"{_WATCH}.weight_state_format"),
    *converted("attention_logits", "monitor.watches_attention_logits", "where it says where", f"{_WATCH}.{_LOGITS}"),
    *ignored(_METRICS, "tensorboard.**", "monitor_config.**", "metric.**", "eval_callbacks.**"),
    *converted(
        "tokenizer_file",
        "data.tokenizer",
        "tokenizer_file or vocab_file of its tokenizer",
        "processor.**",
    ),
    *ignored(
        "evaluation is with data.evaluate; this set has not been named as held out",
        "eval_dataset.**",
        "eval_dataset_task.**",
    ),
    *converted("train_dataset_copy", "data", "train_dataset goes before it", "train_dataset_task.**"),
)

PYNATIVE_WATCH_ROWS: Rows = (
    *ignored("MindFormers declares it and does not read it", "monitor.health_checkpoint.**"),
    *ignored(_METRICS, "monitor.train_state.**", "monitor.tensorboard.**", "monitor.moe_monitor.**"),
    *converted("profiles", "monitor.profile", "torch's profiler, where true", "profiler.enable_profiling"),
    *renamed("profile_first", "monitor.profile.first_step", "profiler.start_step"),
    *converted("profile_last", "monitor.profile.num_steps", "the last step; a hundred at most", "profiler.end_step"),
    *converted("profile_ranks", "monitor.profile.ranks", "rank 0 where it says none", "profiler.profiler_rank"),
    *renamed("profile_memory", "monitor.profile.memory", "profiler.profile_memory"),
    *ignored(_PROFILE, "profiler.**"),
    *refused("LoRA and other adapters are for finetuning", "lora_config.**"),
)
