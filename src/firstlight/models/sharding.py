"""How each module is cut over the ranks of a tensor group: placements as data, by the end of its name.

Between modules the stream is cut along the sequence. A module that is not named here has nothing to cut.
"""

from collections.abc import Mapping
from typing import Literal

from firstlight.config.model import ModelConfig, MultiHeadLatentAttention

Cut = Literal["vocabulary", "gathered", "column", "gathered_column", "row", "copied"]
"""
| cut | parameters | reads | gives |
| --- | --- | --- | --- |
| `vocabulary` | rows of the vocabulary | all token ids | its part of the sequence |
| `gathered` | its own ones by head | the whole sequence, gathered once for its parts | as its parts do |
| `column` | output features | the whole sequence, gathered by the module around it | its features of all positions |
| `gathered_column` | output features | its part of the sequence, gathered here | its features of all positions |
| `row` | input features | its features of all positions | its part of the sequence, summed over the ranks |
| `copied` | a copy on every rank | what is here | the same |
"""

_EVERYWHERE: Mapping[str, Cut] = {
    "embedding": "vocabulary",
    "gate_proj": "column",
    "up_proj": "column",
    "down_proj": "row",
    "o_proj": "row",
    "feed_forward": "gathered",
    "shared_expert": "gathered",
    "router": "copied",
    "projection": "copied",
    "norm": "copied",
}
_GROUPED_QUERY: Mapping[str, Cut] = {
    "attention": "gathered",
    "q_proj": "column",
    "k_proj": "column",
    "v_proj": "column",
}
_LATENT: Mapping[str, Cut] = {
    "q_proj": "gathered_column",
    "q_a_proj": "copied",
    "q_b_proj": "gathered_column",
    "kv_a_proj": "copied",
    "kv_b_proj": "gathered_column",
    "shared_key": "gathered",
}
"""The latents are made from each rank's part of the sequence, and gathered: they are narrower than the stream."""

EXPERT_SLICES: Mapping[str, int] = {
    "gate_proj": 1,
    "up_proj": 1,
    "down_proj": 2,
    "gate_bias": 1,
    "up_bias": 1,
    "down_bias": 1,
}
"""The dimension along which ranks that share routed experts cut their stacks: output features of gate and up, input
features of down. Each adds its part of the last bias, which so is added once to the sum of what they give."""


def cuts(config: ModelConfig) -> Mapping[str, Cut]:
    """The cut of a module by the last part of its name; every `*_norm` is a `norm`."""
    is_latent = isinstance(config.attention, MultiHeadLatentAttention)
    return {**_EVERYWHERE, **(_LATENT if is_latent else _GROUPED_QUERY)}


def cut_of(name: str, table: Mapping[str, Cut]) -> Cut | None:
    """The cut of the module of this name, if it has one."""
    last = name.rpartition(".")[2]
    return table.get("norm" if last.endswith("_norm") else last)
