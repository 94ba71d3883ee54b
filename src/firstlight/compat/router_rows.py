"""Rows of experts and their router: inside the model in newer files, a section `moe_config` in older ones."""

from firstlight.compat.row import OFF, Rows, converted, ignored, refused, renamed

_DROPLESS = "no token is dropped, and an expert without tokens is no special case"
_EXCHANGE = "how tokens travel to experts follows from the layout"
_SHOWN = "the load of experts is in the metrics"

ROUTER_ROWS: Rows = (
    *renamed(
        "n_routed_experts",
        "model.feed_forward.n_routed_experts",
        "expert_num",
        "n_routed_experts",
        "num_experts",
        "num_moe_experts",
    ),
    *renamed("n_shared_experts", "model.feed_forward.n_shared_experts", "shared_expert_num", "n_shared_experts"),
    *renamed(
        "moe_intermediate_size",
        "model.feed_forward.moe_intermediate_size",
        "moe_intermediate_size",
        "moe_ffn_hidden_size",
    ),
    *converted(
        "shared_width",
        "model.feed_forward.n_shared_experts",
        "must be that many times moe_intermediate_size",
        "moe_shared_expert_intermediate_size",
    ),
    *converted(
        "first_k_dense_replace",
        "model.feed_forward.first_k_dense_replace",
        "as written",
        "first_k_dense_replace",
    ),
    *converted(
        "moe_layer_freq",
        "model.feed_forward.first_k_dense_replace",
        "a list of zeros and then ones gives the number of zeros",
        "moe_layer_freq",
    ),
    *renamed(
        "num_experts_per_tok",
        "model.feed_forward.router.num_experts_per_tok",
        "num_experts_chosen",
        "num_experts_per_tok",
        "moe_router_topk",
    ),
    *converted("n_group", "model.feed_forward.router.n_group", "0 is 1", "n_group", "moe_router_num_groups"),
    *converted("topk_group", "model.feed_forward.router.topk_group", "0 is 1", "topk_group", "moe_router_group_topk"),
    *renamed("norm_topk_prob", "model.feed_forward.router.norm_topk_prob", "norm_topk_prob"),
    *converted(
        "pre_softmax",
        "model.feed_forward.router.norm_topk_prob",
        "a softmax over the chosen logits alone is one over all, divided by the sum of the chosen",
        "moe_router_pre_softmax",
    ),
    *renamed(
        "routed_scaling_factor",
        "model.feed_forward.router.routed_scaling_factor",
        "routed_scaling_factor",
        "moe_router_topk_scaling_factor",
    ),
    *converted(
        "scoring",
        "model.feed_forward.router.scoring",
        "sigmoid or softmax; true is sigmoid",
        "use_gating_sigmoid",
        "scoring_func",
        "moe_router_score_function",
    ),
    *converted(
        "bias_is_on",
        "model.feed_forward.router.bias_update_rate",
        "0 where false",
        "balance_via_topk_bias",
        "moe_router_enable_expert_bias",
    ),
    *renamed(
        "bias_update_rate",
        "model.feed_forward.router.bias_update_rate",
        "topk_bias_update_rate",
        "moe_router_bias_update_rate",
    ),
    *converted(
        "balance_kind",
        "model.feed_forward.router.balance_loss_scope",
        "seq and sub_seq measure each sequence; aux and gbs become micro_batch where the router can",
        "moe_router_load_balancing_type",
    ),
    *renamed("balance_weight", "model.feed_forward.router.balance_loss", "moe_aux_loss_coeff"),
    *converted(
        "balance_types",
        "model.feed_forward.router.balance_loss",
        "with aux_loss_factors; expert is the loss of each sequence",
        "aux_loss_types",
    ),
    *converted(
        "balance_weights", "model.feed_forward.router.balance_loss", "that of the type expert", "aux_loss_factors"
    ),
    *converted(
        "capacity_factor",
        "model.feed_forward.router.capacity_factor",
        "where tensors and sequences are whole and no grouped product makes it moot; else no token is dropped",
        "capacity_factor",
        "moe_expert_capacity_factor",
    ),
    *converted(
        "is_grouped_product",
        "model.feed_forward.router.capacity_factor",
        "a grouped product drops no token",
        "use_gmm",
        "moe_grouped_gemm",
    ),
    *converted(
        "forced_balance",
        "model.feed_forward.router.force_balance",
        "round_robin where true",
        "moe_router_force_expert_balance",
    ),
    *renamed(
        "expert_tensor_parallel",
        "parallelism.expert_tensor_parallel",
        "expert_model_parallel",
        "expert_tensor_parallel_size",
    ),
    *ignored(
        "MindFormers does not read it here: moe_aux_loss_coeff or aux_loss_factors is the weight",
        "aux_loss_factor",
        "router_aux_loss_coef",
        "aux_loss_alpha",
        "seq_aux",
        "output_router_logits",
    ),
    *ignored("the router is always computed in fp32", "router_dense_type", "moe_router_dtype"),
    *converted(
        "choice",
        "model.feed_forward.router.n_group",
        "a legacy file chooses among groups with group_limited_greedy alone",
        "topk_method",
    ),
    *renamed("router_z_loss", "model.feed_forward.router.z_loss", "z_loss_factor", "moe_z_loss_coeff"),
    *ignored("follows from the router's kind", "routing_policy"),
    *ignored(
        _DROPLESS,
        "enable_sdrop",
        "moe_token_drop_policy",
        "use_pad_tokens",
        "enable_gmm_safe_tokens",
        "max_router_load",
        "expert_group_size",
    ),
    *ignored(
        _EXCHANGE,
        "moe_token_dispatcher_type",
        "group_wise_a2a",
        "use_allgather_dispatcher",
        "enable_deredundency",
        "enable_deredundancy",
        "npu_nums_per_device",
        "moe_shared_expert_overlap",
        "ep_extend_tp",
        "ep_size",
    ),
    *ignored(
        "which kernel computes it is no part of the configuration",
        "use_fused_ops_topkrouter",
        "moe_router_fusion",
        "use_fused_ops_permute",
        "moe_permute_fusion",
        "moe_apply_probs_on_input",
    ),
    *ignored(_SHOWN, "callback_moe_droprate", "print_expert_load", "save_token_distribution", "cur_layer"),
    *ignored("of models that mix layers otherwise", "decoder_sparse_step", "mlp_only_layers", "max_window_layers"),
    *ignored(
        "of the relocation of hot experts",
        "update_step",
        "hot_expert_num",
        "cold_token_percent",
        "moe_module_name",
        "expert_relocation_initial_iteration",
        "expert_relocation_freq",
    ),
    *refused("experts are not relocated", "enable_cold_hot_expert", "enable_expert_relocation"),
    *refused("the shared expert has no gate", "use_shared_expert_gating"),
    *refused("hash routing is not there", "moe_n_hash_layers", "num_hash_layers", unless=OFF),
)

MOE_CONFIG_ROWS: Rows = (
    *ROUTER_ROWS,
    *ignored("communication overlaps with computation by itself", "comp_comm_parallel", "comp_comm_parallel_degree"),
    *ignored("used for inference only", "dispatch_global_max_bs"),
)
