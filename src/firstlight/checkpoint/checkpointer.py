"""The face of the room: when to save, save, restore the newest good one, keep the last few."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from firstlight.base.errors import NoCheckpointError
from firstlight.base.peers import Alone, Peers
from firstlight.checkpoint.manifest import Manifest
from firstlight.checkpoint.reader import load
from firstlight.checkpoint.writer import CheckpointWriter
from firstlight.config.training import CheckpointConfig

_STEP_FOLDER = re.compile(r"step-(\d{8})")


class Stateful(Protocol):
    """What can be saved: live tensors by name (`model/...`, `optimizer/...`) and plain values."""

    @property
    def step(self) -> int: ...

    def tensors(self) -> Mapping[str, Tensor]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Checkpointer:
    """Saves and restores a run's state in `folder`. `save` and `restore` are collectives."""

    def __init__(
        self, folder: Path, config: CheckpointConfig, peers: Peers, *, configuration: Mapping[str, Any]
    ) -> None:
        self._folder = folder
        self._config = config
        self._peers = peers
        self._configuration = dict(configuration)
        self._writer = CheckpointWriter(folder, peers)
        self._known_step: int | None = None

    def due(self, step: int) -> bool:
        """Whether the state after `step` is to be saved."""
        every = self._config.save_every_steps
        return every > 0 and step % every == 0

    def save(self, state: Stateful) -> None:
        """Publish the state, then remove all but the newest `keep_last`.

        Nothing is written when the state of this step was just saved or restored.
        """
        if state.step == self._known_step:
            return
        manifest = Manifest(
            step=state.step,
            world_size=self._peers.size,
            state=state.state_dict(),
            configuration=self._configuration,
            files={},
            tensors={},
        )
        self._writer.write(step_folder(state.step), state.tensors(), manifest)
        self._known_step = state.step
        # A newer one is there when it was refused on restoring: it does not count, and is replaced at its step.
        usable = [folder for folder in candidates(self._folder) if folder.name <= step_folder(state.step)]
        self._writer.remove(usable[self._config.keep_last :])

    def restore(self, state: Stateful) -> int | None:
        """Fill `state` from the newest checkpoint that loads on all ranks; its step, or None when there is none.

        A candidate that does not load is named with the reason, and the one before it is tried. Raises
        NoCheckpointError when there are candidates and none loads: a run never starts from zero over them.
        """
        found = self._agreed_candidates()
        for folder in found:
            manifest = load(folder, state.tensors(), self._peers)
            if manifest is not None:
                state.load_state_dict(manifest.state)
                self._known_step = manifest.step
                return manifest.step
        if found:
            raise NoCheckpointError(
                f"none of the {len(found)} checkpoints in {self._folder} can be loaded (reasons above); "
                "repair one, or start in another output folder"
            )
        return None

    def _agreed_candidates(self) -> list[Path]:
        """The candidates that the first rank sees: a shared file system may show them to another rank later."""
        mine = candidates(self._folder) if self._peers.rank == 0 else []
        (count,) = self._peers.sum([float(len(mine))])
        steps = [float(step_of(folder)) for folder in mine] or [0.0] * int(count)
        return [self._folder / step_folder(int(step)) for step in self._peers.sum(steps)] if count else []


def step_folder(step: int) -> str:
    """The name of a step's folder."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step of a folder with such a name."""
    return int(folder.name.removeprefix("step-"))


def candidates(folder: Path) -> list[Path]:
    """The published checkpoints of a run, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((entry for entry in folder.iterdir() if _STEP_FOLDER.fullmatch(entry.name)), reverse=True)


def load_newest(folder: Path, tensors: Mapping[str, Tensor]) -> Manifest:
    """Fill `tensors` alone (say, the model's) from the newest checkpoint that loads. For one process.

    Raises NoCheckpointError when there is none.
    """
    found = candidates(folder)
    for candidate in found:
        manifest = load(candidate, tensors, Alone())
        if manifest is not None:
            return manifest
    reason = "can be loaded (reasons above)" if found else "is there; train first"
    raise NoCheckpointError(f"no checkpoint in {folder} {reason}")
