"""TrainState: everything that must survive a restart.

Training draws no random numbers: initial weights follow from the seed and their names, the order of the data from the
seed and the position. So there is no generator to save.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from firstlight.base.errors import InputError
from firstlight.checkpoint.retention import BAD_SINCE
from firstlight.data.stream import Batch, TokenStream
from firstlight.models.decoder import Decoder
from firstlight.optim.averages import Averages
from firstlight.optim.optimizer import Optimizer
from firstlight.parallel.apply import buffer_names, parameter_names
from firstlight.resilience.guard import Guard

Weights = Literal["model", "ema"]
"""Those that were trained, or their moving average."""


@dataclass(kw_only=True)
class TrainState:
    """The run after `step` steps.

    `stages` are the model, or this rank's part of a pipeline. `data_fingerprint` marks the data set that `data` reads.
    """

    stages: Sequence[Decoder]
    optimizer: Optimizer
    data: TokenStream
    data_fingerprint: str
    guard: Guard
    averages: Averages
    total_steps: int
    accept_data: Callable[[str, str], None] | None = None
    """Told of the fingerprints there and here when the data has changed and that is accepted; None refuses it."""
    step: int = 0
    samples: int = 0
    tokens: int = 0
    evaluated_step: int = 0
    """The last step after which the held-out sets were evaluated."""

    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total_steps

    def advance(self, batch: Batch, *, sequence_length: int) -> None:
        """Count one step that consumed the global batch of `batch`."""
        self.step += 1
        self.samples += batch.samples
        self.tokens += batch.samples * sequence_length

    def tensors(self) -> dict[str, Tensor]:
        """The live tensors: `model/...` parameters and router biases, `optimizer/...` moments, averages of weights."""
        moments = {f"optimizer/{name}": moment for name, moment in self.optimizer.tensors().items()}
        return {**model_tensors(*self.stages), **moments, **self.averages.tensors()}

    def state_dict(self) -> dict[str, Any]:
        """All that is not a tensor, as plain values."""
        return {
            "step": self.step,
            "samples": self.samples,
            "tokens": self.tokens,
            "evaluated_step": self.evaluated_step,
            "optimizer": self.optimizer.state_dict(),
            "data": {**self.data.state_dict(), "fingerprint": self.data_fingerprint},
            "guard": self.guard.state_dict(),
            BAD_SINCE: self.guard.bad_since,
        }

    def refusal(self, state: Mapping[str, Any]) -> str | None:
        """Why the run does not go on from a saved state: it has trained on samples that are left out."""
        return self.data.refusal(state["data"])

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` gave. Raises InputError when it was trained on other data."""
        saved = state["data"]["fingerprint"]
        if saved != self.data_fingerprint and self.accept_data is not None:
            self.accept_data(saved, self.data_fingerprint)
        elif saved != self.data_fingerprint:
            raise InputError(
                f"the training data has changed since the checkpoint at step {state['step']}: its fingerprint is "
                f"{self.data_fingerprint[:16]}..., the checkpoint's {saved[:16]}...; restore the data set, start "
                "in another output folder, or go on with --accept-change data"
            )
        self.step, self.samples, self.tokens = state["step"], state["samples"], state["tokens"]
        self.evaluated_step = state["evaluated_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.data.load_state_dict(state["data"])
        self.guard.load_state_dict(state["guard"])


def model_tensors(*stages: Decoder, weights: Weights = "model") -> dict[str, Tensor]:
    """Parameters and buffers under the names that checkpoints use for such weights."""
    tensors = parameter_names(*stages) | buffer_names(*stages)
    return {f"{weights}/{name}": tensor for name, tensor in tensors.items()}
