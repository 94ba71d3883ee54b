"""A state to save: small tensors of every kind that a checkpoint holds, with values that tell the step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from firstlight.base.peers import Alone, Peers
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.checkpoint.disk import Disk
from firstlight.config.training import CheckpointConfig

MODEL_FILE = "model-00001-of-00001.safetensors"
OPTIMIZER_FILE = "optimizer-00001-of-00001.safetensors"


class State:
    """Tensors and plain values after `step` steps; `blank` ones differ from those of every step."""

    def __init__(self, step: int, *, width: int = 3) -> None:
        self.step = step
        self._width = width
        self.refused: set[int] = set()
        self.values: dict[str, Any] = {"step": step, "samples": 4 * step, "words": "ünï", "nested": {"list": [1, 2.5]}}
        source = torch.Generator().manual_seed(step)
        self.live = {
            "model/embedding.weight": torch.randn(5, width, generator=source),
            "model/layers.0.experts": torch.randn(2, 3, width, generator=source).bfloat16(),
            "model/scale": torch.randn(1, generator=source).half(),
            "optimizer/exp_avg/embedding.weight": torch.randn(5, width, generator=source).double(),
            "optimizer/exp_avg/scale": torch.tensor([float("nan"), -0.0, float("inf"), float(step)]),
        }

    def tensors(self) -> Mapping[str, Tensor]:
        return self.live

    def state_dict(self) -> dict[str, Any]:
        return self.values

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.values = dict(state)
        self.step = state["step"]

    def refusal(self, state: Mapping[str, Any], /) -> str | None:
        return f"step {state['step']} is not wanted" if state["step"] in self.refused else None


def blank(*, width: int = 3) -> State:
    """A state to restore into."""
    return State(10**6, width=width)


def is_state_of(state: State, step: int) -> bool:
    """Whether everything in `state` is, bit for bit, that of `step`."""
    expected = State(step)
    tensors = zip(state.tensors().values(), expected.tensors().values(), strict=True)
    return state.step == step and state.values == expected.values and all(same_bits(a, b) for a, b in tensors)


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same type, shape and bytes."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return one.reshape(-1).view(torch.uint8).equal(other.reshape(-1).view(torch.uint8))


def checkpointer(
    folder: Path,
    *,
    keep_last: int = 3,
    peers: Peers | None = None,
    asynchronous: bool = False,
    disk: Disk | None = None,
) -> Checkpointer:
    """A checkpointer that has seen nothing yet, as in a new process."""
    config = CheckpointConfig(save_every_steps=2, keep_last=keep_last, asynchronous=asynchronous)
    return Checkpointer(folder, config, peers or Alone(), configuration={"model": {"width": 3}}, disk=disk)


def saved(folder: Path, *steps: int, keep_last: int = 3) -> Path:
    """`folder` with the checkpoints of these steps."""
    for step in steps:
        checkpointer(folder, keep_last=keep_last).save(State(step))
    return folder


def save_last(one: Checkpointer, state: State) -> None:
    """Save the last state of a run: the error is raised."""
    one.save(state)
    one.finish()


def contents(folder: Path) -> dict[str, bytes]:
    """All files below `folder`, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
