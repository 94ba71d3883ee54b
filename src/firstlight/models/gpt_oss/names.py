"""Hugging Face's tensor names for gpt-oss, in bf16; the released files hold the experts in MXFP4."""

from firstlight.models.hub_rows import GROUPED_QUERY, PRE_NORMS
from firstlight.models.names import Row, same

_OURS, _THEIRS = "feed_forward.experts.", "mlp.experts."

BLOCK = (
    *PRE_NORMS,
    *GROUPED_QUERY,
    same("feed_forward.router.weight", "mlp.router.weight"),
    same("feed_forward.router.logit_bias", "mlp.router.bias"),
    Row(
        ours=(_OURS + "gate_proj", _OURS + "up_proj"),
        theirs=_THEIRS + "gate_up_proj",
        layout="interleaved_transposed",
    ),
    Row(
        ours=(_OURS + "gate_bias", _OURS + "up_bias"),
        theirs=_THEIRS + "gate_up_proj_bias",
        layout="interleaved",
    ),
    Row(ours=(_OURS + "down_proj",), theirs=_THEIRS + "down_proj", layout="transposed"),
    same(_OURS + "down_bias", _THEIRS + "down_proj_bias"),
)
