"""Rows of layouts and of memory: who holds what, what is computed again, what waits in host memory."""

from firstlight.compat.row import Rows, converted, ignored, refused, renamed

_OVERLAP = "communication overlaps with computation by itself"
_COMPILER = "of MindSpore's automatic parallelism; the layout is what the degrees say"

DEGREE_ROWS: Rows = (
    *converted(
        "data_parallel",
        "parallelism.data_parallel_shard",
        "sharded with the parallel optimizer, else data_parallel_replicate",
        "data_parallel",
        "data_parallel_size",
    ),
    *renamed("tensor_parallel", "parallelism.tensor_parallel", "model_parallel", "tensor_model_parallel_size"),
    *renamed("pipeline_parallel", "parallelism.pipeline_parallel", "pipeline_stage", "pipeline_model_parallel_size"),
    *renamed("context_parallel", "parallelism.context_parallel", "context_parallel", "context_parallel_size"),
    *renamed("expert_parallel", "parallelism.expert_parallel", "expert_parallel", "expert_model_parallel_size"),
    *converted(
        "micro_batches",
        "training.global_batch_size",
        "a factor of it where there is a pipeline",
        "micro_batch_num",
    ),
    *converted(
        "context_kind",
        "parallelism.context.kind",
        "colossalai_cp is ring, ulysses_cp all_to_all, hybrid_cp mixed",
        "context_parallel_algo",
        "cp_comm_type",
    ),
    *renamed("ulysses_degree", "parallelism.context.all_to_all", "ulysses_degree_in_cp"),
    *converted(
        "sequence_parts",
        "parallelism.pipeline.schedule",
        "sequences travel whole; the result is the same",
        "seq_split_num",
    ),
    *converted(
        "offset",
        "parallelism.pipeline.split",
        "layers of each stage; in legacy DeepSeek-V3 the layers of multi-token prediction count",
        "offset",
    ),
    *renamed(
        "stages_per_rank",
        "parallelism.pipeline.stages_per_rank",
        "pp_interleave_num",
        "virtual_pipeline_model_parallel_size",
    ),
    *ignored("tensor parallelism cuts sequences always", "use_seq_parallel", "sequence_parallel"),
    *ignored("vocabulary and head are cut with the tensors", "vocab_emb_dp"),
    *ignored(_OVERLAP, "gradient_aggregation_group", "mem_coeff"),
    *ignored("deprecated in MindFormers, which does not read it", "optimizer_shard"),
)

PARALLEL_ROWS: Rows = (
    *converted(
        "parallel_mode",
        "parallelism.data_parallel_shard",
        "0 is data parallel alone: every process is a replica",
        "parallel_mode",
    ),
    *converted(
        "optimizer_is_sharded",
        "parallelism.sharded",
        "optimizer; optimizer+gradients with gradient_accumulation_shard; all with parallel_optimizer_comm_recompute",
        "enable_parallel_optimizer",
    ),
    *converted(
        "gradients_are_sharded",
        "parallelism.sharded",
        "optimizer+gradients where true",
        "parallel_optimizer_config.gradient_accumulation_shard",
    ),
    *converted(
        "shard_size",
        "parallelism.data_parallel_shard",
        "at most data_parallel; the rest is data_parallel_replicate",
        "parallel_optimizer_config.optimizer_weight_shard_size",
    ),
    *converted(
        "pipeline_schedule",
        "parallelism.pipeline.schedule",
        "1f1b and seq schedules are 1f1b, or interleaved_1f1b with several stages; zero_bubble_v is zbv_zero_bubble",
        "pipeline_config.pipeline_scheduler",
    ),
    *ignored(
        "every parameter is sharded, the small ones too", "parallel_optimizer_config.parallel_optimizer_threshold"
    ),
    *ignored("follows from stages_per_rank", "pipeline_config.pipeline_interleave"),
    *ignored("gradients are means over the global batch", "gradients_mean", "gradient_fp32_sync", "loss_repeated_mean"),
    *ignored(
        _COMPILER,
        "search_mode",
        "enable_alltoall",
        "full_batch",
        "dataset_strategy",
        "auto_parallel_search_mode",
        "sharding_propagation",
        "strategy_ckpt_save_file",
        "strategy_ckpt_load_file",
        "strategy_ckpt_config.**",
        "device_num",
        "global_rank",
        "all_reduce_fusion_config",
        "comm_fusion.**",
        "parameter_broadcast",
        "auto_pipeline",
        "pipeline_stages",
        "group_ckpt_save_file",
    ),
)

RECOMPUTE_ROWS: Rows = (
    *converted(
        "full_recompute",
        "recompute",
        "true is every layer; a list of layers of each stage becomes the range that holds them all",
        "recompute",
    ),
    *converted("select_recompute", "recompute", "kind selective", "select_recompute"),
    *converted(
        "select_operators",
        "recompute",
        "kind selective; operators are not told apart by name",
        "select_recompute.**",
    ),
    *converted(
        "communication_is_repeated",
        "recompute.communication",
        "repeated where true, else kept",
        "mp_comm_recompute",
    ),
    *converted(
        "parameters_are_gathered_again",
        "parallelism.sharded",
        "all where true, with the parallel optimizer",
        "parallel_optimizer_comm_recompute",
    ),
    *ignored("inputs of layers are cut with the sequence", "recompute_slice_activation"),
    *ignored(
        "results that are kept are chosen by recompute.kept",
        "select_comm_recompute",
        "select_recompute_exclude",
        "select_comm_recompute_exclude",
        "select_comm_recompute.**",
        "select_recompute_exclude.**",
        "select_comm_recompute_exclude.**",
    ),
)

SWAP_ROWS: Rows = (
    *converted("swap", "offload.activations", "the layers that layer_swap names, or all", "swap", "cpu_offloading"),
    *converted(
        "swapped_layers",
        "offload.activations",
        "the range that holds them all",
        "layer_swap.**",
        "cpu_offloading_num_layers",
    ),
    *ignored("whole layers are offloaded, not operators", "op_swap.**"),
    *ignored("prefetching is automatic", "default_prefetch"),
)

PYNATIVE_PARALLELISM_ROWS: Rows = (
    *renamed("data_parallel_shard", "parallelism.data_parallel_shard", "data_parallel_shard"),
    *converted(
        "shard_strategy",
        "parallelism.sharded",
        "optim_grads_params is all, optim_grads optimizer+gradients, optim optimizer",
        "data_parallel_shard_strategy",
    ),
    *converted(
        "cpu_offload", "offload.optimizer_state", "host where true: the optimizer's moments wait there", "cpu_offload"
    ),
    *renamed("tensor_parallel", "parallelism.tensor_parallel", "tensor_parallel"),
    *renamed("context_parallel", "parallelism.context_parallel", "context_parallel"),
    *converted(
        "context_kind",
        "parallelism.context.kind",
        "colossal is ring, ulysses all_to_all, hybrid mixed",
        "context_parallel_method",
    ),
    *renamed("ulysses_degree", "parallelism.context.all_to_all", "ulysses_degree_in_cp"),
    *renamed("pipeline_parallel", "parallelism.pipeline_parallel", "pipeline_parallel"),
    *converted(
        "stage_layers",
        "parallelism.pipeline.split",
        "the number of layers of each stage; auto is balanced",
        "pipeline_parallel_layers_per_stage",
    ),
    *renamed("pipeline_schedule", "parallelism.pipeline.schedule", "pipeline_parallel_schedule"),
    *renamed("stages_per_rank", "parallelism.pipeline.stages_per_rank", "pipeline_parallel_interleave_num"),
    *renamed("expert_parallel", "parallelism.expert_parallel", "expert_parallel"),
    *ignored("tensor parallelism cuts sequences always", "sequence_parallel"),
    *ignored("gradients are means over the global batch", "disable_gradient_division"),
    *ignored("follows from training.global_batch_size", "pipeline_parallel_microbatch_size"),
    *ignored("parameters are gathered again where sharded = all", "reshard_after_forward_policy"),
    *ignored(
        _OVERLAP,
        "context_parallel_async",
        "pipeline_parallel_overlap_p2p",
        "pipeline_parallel_overlap_b_f",
        "pipeline_parallel_enable_dxdw_split",
        "pipeline_parallel_p2p_transport",
        "enable_mc2",
        "expert_parallel_async_d2h",
    ),
    *ignored("the loss is computed on parts of the vocabulary", "enable_loss_parallel"),
    *ignored("attention is causal", "context_parallel_mask_type"),
    *ignored(
        "how tokens travel to experts follows from the layout", "moe_token_dispatcher_type", "npu_nums_per_device"
    ),
    *ignored("an expert without tokens is no special case", "expert_parallel_use_safe_tokens"),
    *refused("dense layers and experts are sharded alike", "dense_fsdp_shard_size"),
)

PYNATIVE_RECOMPUTE_ROWS: Rows = (
    *converted("recompute_mode", "recompute.kind", "full, or select as modules", "mode"),
    *converted("recomputed_layers", "recompute.layers", "the range that holds them all", "full_recompute_layer"),
    *converted(
        "recomputed_modules",
        "recompute.modules",
        "attention, feed_forward, experts, shared_expert by the parts of their paths",
        "select_module.**",
    ),
    *ignored("results that are kept are chosen by recompute.kept", "exclude_op"),
)

PYNATIVE_SWAP_ROWS: Rows = (
    *converted("swap", "offload.activations", "the layers that layer_swap names, or all", "enable"),
    *converted("swapped_layers", "offload.activations", "the range that holds them all", "layer_swap.**"),
    *ignored("whole layers are offloaded, not operators", "op_swap.**"),
    *ignored("prefetching is automatic", "default_prefetch"),
)

PYNATIVE_RECOMPUTE_COMM_ROWS: Rows = (
    *converted("communication_is_repeated", "recompute.communication", "repeated where true", "enable"),
    *ignored("all collectives of a layer are treated alike", "select_module.**"),
)
