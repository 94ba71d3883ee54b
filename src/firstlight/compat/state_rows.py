"""Rows of saved state: loading, saving, and the callbacks, of which saving is one."""

from firstlight.compat.row import OFF, Rows, converted, ignored, refused, renamed, under

_ANY_LAYOUT = "a checkpoint loads in any layout"
_LOADED = "a Hugging Face folder, which run_mindformer.py makes of others, as firstlight convert does"
_OWN_FOLDER = "a run goes on from its own folder by itself"

LOAD_ROWS: Rows = (
    *converted(
        "load_path",
        "model.from_hf",
        _LOADED,
        "load_checkpoint",
    ),
    *ignored(
        _ANY_LAYOUT,
        "load_ckpt_format",
        "auto_trans_ckpt",
        "transform_process_num",
        "transform_by_rank",
        "src_strategy_path_or_dir",
        "src_strategy",
        "load_ckpt_async",
        "balanced_load",
        "reshard_worker_num",
        "use_legacy_format",
        "npu_num_per_node",
        "remove_redundancy",
    ),
    *ignored(_OWN_FOLDER, "resume_training", "resume_by_last_timestamp_ckpt"),
    *ignored("the position in the data is part of a checkpoint", "ignore_data_skip", "data_skip_steps"),
    *refused("there are no strategy files to save", "only_save_strategy"),
)

_MONITOR_ROWS: Rows = (
    *converted("save_every_steps", "checkpoint.save_every_steps", "0 is never", "save_checkpoint_steps"),
    *converted("save_every_seconds", "checkpoint.save_every_minutes", "divided by 60", "save_checkpoint_seconds"),
    *renamed("keep_last", "checkpoint.keep_last", "keep_checkpoint_max"),
    *renamed("asynchronous", "checkpoint.asynchronous", "async_save"),
    *renamed("file_prefix", "checkpoint.mindformers_files.prefix", "prefix"),
    *ignored("checkpoints are those of Firstlight, with the weights in .safetensors beside them", "checkpoint_format"),
    *ignored("they lie in the run's folder", "directory", "save_path"),
    *ignored(
        _ANY_LAYOUT,
        "integrated_save",
        "remove_redundancy",
        "save_trainable_params",
        "save_network_params",
        "append_info",
    ),
    *ignored("the optimizer's state is always saved", "save_optimizer"),
    *ignored("checkpoint.keep_every_steps keeps some for ever", "keep_checkpoint_per_n_minutes"),
    *ignored("a run that fails goes on from its last checkpoint", "exception_save", "need_remove_extra_ckpt"),
    *ignored(
        "weights that are not finite mark a checkpoint as unhealthy",
        "embedding_size",
        "embedding_local_norm_threshold",
        "use_checkpoint_health_monitor",
        "health_ckpts_record_dir",
        "global_norm",
    ),
    *refused("checkpoints are not encrypted", "enc_key", "enc_mode"),
)

_SAVING_ROWS: Rows = (*converted("saves", "checkpoint", "without it nothing is saved", "type"), *_MONITOR_ROWS)
"""Of the callback, which earlier releases spelled CheckpointMointor."""

_BIAS_ROWS: Rows = (
    *converted("bias_is_on", "model.feed_forward.router.bias_update_rate", "0 where false", "balance_via_topk_bias"),
    *renamed("bias_update_rate", "model.feed_forward.router.bias_update_rate", "topk_bias_update_rate"),
    *renamed("num_hidden_layers", "model.num_hidden_layers", "num_layers"),
    *converted("num_mtp_layers", "model.multi_token_prediction.num_layers", "0 is none", "mtp_depth"),
    *renamed("n_routed_experts", "model.feed_forward.n_routed_experts", "expert_num"),
    *converted(
        "micro_batches", "training.global_batch_size", "a factor of it where there is a pipeline", "micro_batch_num"
    ),
    *ignored("the bias moves once a step", "gradient_accumulation_steps", "micro_batch_interleave_num"),
)

_WATCHED = "what it watches is in the metrics and the log"
_WATCHERS = (
    "SummaryMonitor",
    "ProfileMonitor",
    "ObsMonitor",
    "EvalCallBack",
    "MoEDropRateCallback",
    "MaxLogitsMonitor",
    "StressDetectCallBack",
    "StressTestModelMonitor",
    "SDCMonitor",
    "TrainingStateMonitor",
    "TrainFaultTolerance",
    "LossMonitor",
    "TimeMonitor",
    "MFTimeMonitor",
    "LossCallback",
    "MaxLogitsCallback",
    "ColdHotExpertMonitor",
    "ExpertMigrateCallback",
)

CALLBACK_ROWS: Rows = (
    *under(
        "MFLossMonitor",
        (
            *renamed("log_every_steps", "monitor.log_every_steps", "per_print_times"),
            *ignored(
                _WATCHED,
                "type",
                "learning_rate",
                "micro_batch_num",
                "micro_batch_interleave_num",
                "origin_epochs",
                "dataset_size",
                "initial_epoch",
                "initial_step",
                "global_batch_size",
                "gradient_accumulation_steps",
                "check_for_nan_in_loss_and_grad",
                "device_num",
            ),
        ),
    ),
    *under("CheckpointMonitor", _SAVING_ROWS),
    *under("CheckpointMointor", _SAVING_ROWS),
    *under(
        "TopkBiasBalanceCallback",
        (
            *converted("bias_callback", "model.feed_forward.router.bias_update_rate", "moves the bias", "type"),
            *_BIAS_ROWS,
        ),
    ),
    *under(
        "TrainCallBack",
        (*converted("stop_step", "training.steps", "the run ends there", "stop_step"), *ignored(_WATCHED, "type")),
    ),
    *(row for name in _WATCHERS for row in ignored(_WATCHED, f"{name}.**")),
)

PYNATIVE_CHECKPOINT_ROWS: Rows = (
    *converted("saves", "checkpoint.save_every_steps", "0 where false", "enable_save"),
    *renamed("save_every_steps", "checkpoint.save_every_steps", "save_interleaved_steps"),
    *renamed("keep_last", "checkpoint.keep_last", "save_max"),
    *renamed("asynchronous", "checkpoint.asynchronous", "async_save"),
    *converted(
        "save_path", "training.output_folder", "checkpoints lie in the folder checkpoints below it", "save_path"
    ),
    *converted("load_path", "model.from_hf", _LOADED, "load_path"),
    *ignored("checkpoints are those of Firstlight; firstlight convert writes others", "prefix"),
    *ignored("the optimizer's state is always saved, and loaded with the run", "no_save_optim", "no_load_optim"),
    *ignored("MindFormers does not read it", "load_worker_number"),
    *ignored(_ANY_LAYOUT, "remove_redundancy", "load_balanced", "save_global_layout_cache", "reshard_worker_num"),
)

GRAPH_CHECKPOINT_ROWS: Rows = (
    *PYNATIVE_CHECKPOINT_ROWS,
    *ignored("the optimizer's state is always saved, and loaded with the run", "load_optim"),
    *refused("there are no strategy files to save", "only_save_strategy", unless=OFF),
)
