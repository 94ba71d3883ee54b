"""The optimizer's section: a choice of kinds, and what groups of parameters get of its rates."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from firstlight.config.norm_limit import NormLimitChoice
from firstlight.config.schedule import Scheduled
from firstlight.config.section import Count, NotNegative, Positive, Section

ADAMW_MOMENTS = ("exp_avg", "exp_avg_sq")
MUON_MOMENTS = ("momentum",)
Beta = Annotated[float, Field(ge=0, lt=1)]


class ParameterGroup(Section):
    """Parameters that are updated at other rates than the rest. The first group whose pattern fits a name has it."""

    pattern: str
    """Of whole names as in checkpoints, with * for any text, as in "layers.*.attention.*"."""
    learning_rate_ratio: NotNegative = 1.0
    weight_decay_ratio: NotNegative | None = None
    """null: 1 for matrices, 0 for norms and biases."""


class QkClip(Section):
    """Kimi-K2's QK-clip (arXiv:2507.20534, section 2.1)."""

    threshold: Positive = 100.0
    """A head whose largest attention logit in a step was above it has its query and key projections scaled down after
    the update, so that this logit would have been the threshold."""


class OptimizerSection(Section):
    """What all optimizers have."""

    learning_rate: Positive
    weight_decay: Scheduled = 0.1
    """Decoupled, times the learning rate. Norms and biases are not decayed, unless a group says so."""
    max_grad_norm: Positive | None = 1.0
    """Gradients are scaled down to this global norm; null leaves them as they are."""
    max_grad_value: Positive | None = None
    """Each element of the gradients is brought to within plus and minus this; goes with `max_grad_norm: null`."""
    skip_above: NormLimitChoice | None = None
    """A step with a larger gradient norm leaves weights and moments as they are; null applies all that are finite."""
    qk_clip: QkClip | None = None
    """Limits attention logits where they come from; null leaves them alone."""
    groups: tuple[ParameterGroup, ...] = ()
    moments: Literal["full", "bf16"] = "full"
    """Between updates moments are kept in the type of the parameters, or in bfloat16; updates are computed in full."""

    def moments_of(self, name: str, shape: Sequence[int]) -> tuple[str, ...]:  # noqa: ARG002  # as Muon asks
        """The names of the moments that a parameter has."""
        return ADAMW_MOMENTS

    @model_validator(mode="after")
    def _clips_one_way(self) -> "OptimizerSection":
        if self.max_grad_value is not None and self.max_grad_norm is not None:
            raise ValueError(
                f"max_grad_value = {self.max_grad_value} and max_grad_norm = {self.max_grad_norm} are two ways to clip "
                "gradients; set one of them to null"
            )
        return self


class AdamWConfig(OptimizerSection):
    """AdamW (arXiv:1711.05101)."""

    type: Literal["adamw"] = "adamw"
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    eps: Positive = 1e-8


class MuonConfig(OptimizerSection):
    """Muon (arXiv:2502.16982): the momentum of each matrix, orthogonalised, at the size of AdamW's updates. Experts are
    a matrix each. Vectors, and matrices that `adamw_for` names, are updated by AdamW at the same learning rate."""

    type: Literal["muon"] = "muon"
    momentum: Beta = 0.95
    is_nesterov: bool = True
    newton_schulz_steps: Count = 5
    newton_schulz_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315)
    newton_schulz_precision: Literal["bf16", "full"] = "bf16"
    """full: in the type of the parameters."""
    rms_scale: Positive = 0.2
    """Updates are multiplied by this and the root of a matrix's longer side."""
    splits_heads: bool = False
    """Whether each head's part of latent attention's up-projections (q_b_proj or q_proj, kv_b_proj) is a matrix of its
    own."""
    adamw_for: tuple[str, ...] = ("embedding.*", "head.*", "*.router.*")
    """Patterns of the names of matrices that AdamW updates."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """AdamW's."""
    eps: Positive = 1e-8
    """AdamW's."""

    def orthogonalises(self, name: str, shape: Sequence[int]) -> bool:
        """Whether Muon updates the parameter, or AdamW."""
        return is_matrix(name, shape) and not any(fnmatchcase(name, pattern) for pattern in self.adamw_for)

    def moments_of(self, name: str, shape: Sequence[int]) -> tuple[str, ...]:
        """See OptimizerSection."""
        return MUON_MOMENTS if self.orthogonalises(name, shape) else ADAMW_MOMENTS


def is_matrix(name: str, shape: Sequence[int]) -> bool:
    """Whether it is one, or a stack; the biases of stacked experts are matrices in shape only."""
    return len(shape) > 1 and not name.endswith("bias")


AnyOptimizer = AdamWConfig | MuonConfig


def _tagged(value: Any) -> Any:
    return {"type": "adamw", **value} if isinstance(value, dict) else value


OptimizerChoice = Annotated[AnyOptimizer, Field(discriminator="type"), BeforeValidator(_tagged)]
"""One of the optimizers; `type` says which, and is adamw where it is not written."""
