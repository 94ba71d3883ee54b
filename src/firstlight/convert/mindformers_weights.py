"""What MindFormers' checkpoints hold: weights under its names, and beside them moments, counters and losses."""

from collections.abc import Mapping
from dataclasses import dataclass

from firstlight.base.log import get_logger
from firstlight.config.model import ModelConfig
from firstlight.convert.named_weights import NamedWeights
from firstlight.convert.source import StoredTensor, WeightSource
from firstlight.models.mindformers_rows import MindFormersLayout, mindformers_table

MOMENT_PREFIXES = (
    "adam_m.",
    "adam_v.",
    "exp_avg.",
    "exp_avg_sq.",
    "max_exp_avg_sq.",
    "muon_m.",
    "pma_weight.",
)
_COUNTERS = frozenset(
    {
        "aux_loss",
        "beta1_power",
        "beta2_power",
        "current_iterator_step",
        "epoch_num",
        "global_batch_size",
        "global_step",
        "indexer_loss",
        "last_overflow_iterator_step",
        "learning_rate",
        "lm_loss",
        "loss_scale",
        "mtp_loss",
        "scale_sense",
        "step_num",
        "weight_decay",
    }
)
_ROUTER_STATISTICS = (".fi_accu", ".expert_load", ".max_logits_val", ".num_tokens_per_expert")
_ACCUMULATED = "accu_grads."
_JOINED_LATENTS = (".self_attention.linear_kvb.weight", ".self_attention.linear_qb.weight")
_EXPERTS = ".mlp.experts.weight1"


@dataclass(frozen=True, kw_only=True)
class MindFormersChoices:
    """Two settings of the run's YAML that its checkpoint does not tell; the defaults are MindFormers'."""

    is_interleaved: bool = True
    """`use_interleaved_weight_layout_mlp`."""
    is_grouped: bool = True
    """Not `use_contiguous_weight_layout_attention`."""


def named_weights(config: ModelConfig, source: WeightSource, choices: MindFormersChoices) -> NamedWeights:
    """A source's tensors under MindFormers' names. Raises InputError for a model that it does not name."""
    table = mindformers_table(config, layout_of(source.tensors, choices))
    moments = {name for name in source.tensors if name.startswith(MOMENT_PREFIXES)}
    others = {name for name in source.tensors if _is_state(name)}
    ahead = {name for name in source.tensors if name.startswith("mtp.")} - others
    if moments or others:
        get_logger().info(
            f"{source.place}: weights and router biases are taken; {len(moments)} moments of the optimizer and "
            f"{len(others)} counters, losses and statistics are left out"
        )
    if ahead and config.num_mtp_layers == 0:
        get_logger().warning(f"{len(ahead)} tensors of layers for multi-token prediction are left out of the model")
        others |= ahead
    return NamedWeights(source=source, table=table, others=moments | others)


def layout_of(tensors: Mapping[str, StoredTensor], choices: MindFormersChoices) -> MindFormersLayout:
    """The layout that the names and shapes of a checkpoint show, and for the rest `choices`."""
    experts = [stored for name, stored in tensors.items() if name.endswith(_EXPERTS)]
    return MindFormersLayout(
        has_joined_latents=any(name.endswith(_JOINED_LATENTS) for name in tensors),
        has_stacked_experts=any(len(stored.shape) == 3 for stored in experts),
        is_interleaved=choices.is_interleaved,
        is_grouped=choices.is_grouped,
    )


def _is_state(name: str) -> bool:
    return name in _COUNTERS or name.endswith(_ROUTER_STATISTICS) or name.startswith(_ACCUMULATED)
