"""The plain-number facts of one step, passed between rooms."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class LossReport:
    """True global losses of one step, in nats per token, the same on every rank.

    `parts` holds what the total is made of ("lm", "mtp", "balance", "z", "router_z"), each before its weight;
    `expert_load` holds, for each mixture-of-experts layer, max load / mean load - 1 (MaxVio), `attention_logits` the
    largest attention logit of each layer, where that is measured.
    """

    total: float
    parts: Mapping[str, float]
    tokens: int
    expert_load: Mapping[str, float] = field(default_factory=dict)
    attention_logits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Update:
    """What the optimizer did: whether it changed the weights, and the gradient norm before clipping.

    `norm_limit`: the norm above which it would not have; None where any finite one is let pass. `loss_scale`: by what
    the loss was multiplied for the backward pass.
    """

    applied: bool
    grad_norm: float
    norm_limit: float | None = None
    loss_scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Corruption:
    """Numbers of some ranks are wrong though nothing has failed. The same on every rank, but for details in `what`.

    `good_step`: the last step after which all was well, as far as was looked. `is_lasting`: whether the rank does it
    again and again, so that going back would not help.
    """

    what: str
    good_step: int
    is_lasting: bool = False


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One optimizer step, on `global_batch_size` sequences of `sequence_length` tokens.

    `samples` and `tokens` are totals consumed since the start of training; `phase` is that of the run, from 0.
    """

    step: int
    loss: LossReport
    update: Update
    learning_rate: float
    samples: int
    tokens: int
    global_batch_size: int
    sequence_length: int
    phase: int = 0
    corruption: Corruption | None = None
    not_finite: str = ""
    """Where numbers that are not finite came first, in words; the same on every rank."""


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """Held-out loss (nats per token) after `step` steps, on `tokens` tokens of the set `name`."""

    step: int
    name: str
    loss: float
    tokens: int
    bytes_per_token: float | None = None


Report = StepReport | EvalReport
