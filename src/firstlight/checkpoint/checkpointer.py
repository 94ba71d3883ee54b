"""The face of the room: when to save, save, restore the newest good one, keep the last few."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from firstlight.base.errors import FirstlightError, FolderInUseError, NoCheckpointError
from firstlight.base.log import get_logger
from firstlight.base.peers import Alone, Peers, together
from firstlight.checkpoint.disk import Disk, LocalDisk
from firstlight.checkpoint.interval import SaveInterval
from firstlight.checkpoint.key import read_key
from firstlight.checkpoint.manifest import Manifest
from firstlight.checkpoint.peer_copies import PeerCopies
from firstlight.checkpoint.reader import load
from firstlight.checkpoint.retention import Retention
from firstlight.checkpoint.snapshot import HostBuffers, num_bytes_written, written_shards
from firstlight.checkpoint.step_folder import candidates, step_folder, step_of
from firstlight.checkpoint.task import Task
from firstlight.checkpoint.writer import CheckpointWriter
from firstlight.config.training import CheckpointConfig


class Stateful(Protocol):
    """What can be saved: live tensors by name (`model/...`, `optimizer/...`) and plain values."""

    @property
    def step(self) -> int: ...

    def tensors(self) -> Mapping[str, Tensor]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def refusal(self, state: Mapping[str, Any], /) -> str | None:
        """Why the run does not go on from a state that was saved; None when it may."""


AfterSave = Callable[[Path, Manifest], None]
"""What the first rank does with a published checkpoint, beside the training: its folder and manifest."""


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a rank may and must write: anything only while the folder `is_ours`, and tensors that ranks have whole if it
    is the one of those that have the same ones. Without a pipeline that is the first rank."""

    writes_whole_tensors: bool
    is_ours: Callable[[], bool] = lambda: True
    publishes: bool | None = None
    """Whether it makes the folder and publishes what all have written there; None: the first rank does."""
    copies: PeerCopies | None = None
    """What is written is with other nodes too."""


class Checkpointer:
    """Saves and restores a run's state in `folder`. All methods are collectives.

    A save that fails is reported by the rank on which it failed, and training goes on with the checkpoints that are
    there; only `finish` raises, when it was the last one. When its role says that the folder belongs to another
    process by now, nothing is published and FolderInUseError ends the run. Files are written beside the main thread,
    and ranks agree in it: `due` looks, once a step, whether all have written.
    """

    def __init__(
        self,
        folder: Path,
        config: CheckpointConfig,
        peers: Peers,
        *,
        configuration: Mapping[str, Any],
        role: Role | None = None,
        clock: Callable[[], float] = time.monotonic,
        disk: Disk | None = None,
        after_save: Sequence[AfterSave] = (),
    ) -> None:
        self._folder = folder
        self._places = [folder]
        self._config = config
        self._peers = peers
        self._configuration = dict(configuration)
        self._role = role or Role(writes_whole_tensors=peers.rank == 0)
        self._publishes = peers.rank == 0 if self._role.publishes is None else self._role.publishes
        self._found_by: PeerCopies | None = None
        self._clock = clock
        self._disk = disk = disk or LocalDisk()
        self._key = read_key(config.key_file)
        self._writer = CheckpointWriter(folder, rank=peers.rank, num_ranks=peers.size, disk=disk, key=self._key)
        self._retention = Retention(folder, config, disk, self._key)
        self._after_save = tuple(after_save)
        self._unfollowed: FirstlightError | None = None
        self._buffers = HostBuffers()
        self._known_step: int | None = None
        self._saving: _Saving | None = None
        self._failure: FirstlightError | None = None
        self._is_last_lost = False
        self._interval = SaveInterval(config, clock)

    def look_first_in(self, snapshots: Path, copies: PeerCopies | None = None) -> None:
        """Restore from this folder too, and of one step rather from there. With `copies` each node has its own."""
        self._places, self._found_by = [snapshots, self._folder], copies

    def due(self, step: int) -> bool:
        """Whether the state after `step` is to be saved."""
        if self._saving is not None:
            self._advance()
        if self._interval.is_due_by_step(step):
            return True
        return self._interval.asks_the_clock and self._peers.any_true(
            self._peers.rank == 0 and self._interval.is_due_by_time()
        )

    def save(self, state: Stateful, *, is_last: bool = False) -> None:
        """Save the state, unless that of this step was just saved or restored.

        Returns when the state is copied. If saving is not asynchronous, or nothing is trained after this state, it is
        not copied, and this returns when it is published. A save that is still in flight is waited for: there is never
        a second one.
        """
        self._interval.started()
        self._settle()
        if state.step == self._known_step:
            return
        self._start(state, in_background=self._config.asynchronous and not is_last)
        if self._peers.rank == 0:
            self._interval.stalled()

    def _start(self, state: Stateful, *, in_background: bool) -> None:
        self._failure, self._is_last_lost = None, False
        name = step_folder(state.step)
        tensors = state.tensors()
        prepare = partial(self._prepare, name, num_bytes_written(tensors)) if self._publishes else None
        if self._has_failed(Task(prepare, in_background=False)):
            return
        manifest = Manifest(
            step=state.step,
            world_size=self._peers.size,
            state=copy.deepcopy(state.state_dict()),
            configuration=self._configuration,
            files={},
            tensors={},
        )
        shards = written_shards(tensors, is_first_rank=self._role.writes_whole_tensors)
        if in_background:
            shards = self._buffers.copy(shards)
        write = Task(partial(self._writer.write_part, name, shards), in_background=in_background)
        self._saving = _Saving(name=name, manifest=manifest, task=write)
        if not in_background:
            self._settle()

    def finish(self) -> None:
        """Wait for a save in flight. Raises FirstlightError when the last one, or what follows it, has failed."""
        self._settle()
        if self._is_last_lost or self._after_save:
            together(self._peers, self._raise_failure)

    def remove(self) -> None:
        """Remove all that was saved, when nothing is in flight."""
        if self._publishes and self._folder.exists():
            self._disk.remove(self._folder)

    def _raise_failure(self) -> None:
        if self._is_last_lost and self._failure is not None:
            raise FirstlightError(f"the last state is not saved: {self._failure}")
        if self._unfollowed is not None:
            raise FirstlightError(f"the last state is saved in {self._folder}, but {self._unfollowed}")

    def _settle(self) -> None:
        while self._saving is not None:
            self._saving.task.wait()
            self._advance()

    def _advance(self) -> None:
        """One collective: has every rank done its piece? Then the next piece, or the end."""
        saving = self._saving
        assert saving is not None, "called while a save is in flight"
        if not self._peers.all_true(saving.task.is_done()):
            return
        if self._has_failed(saving.task):
            self._saving = None
            if self._publishes:
                self._writer.give_up(saving.name)
        elif saving.is_publishing:
            self._saving = None
            self._known_step = saving.manifest.step
            self._interval.published()
        else:
            saving = self._copied(saving)
            publish = partial(self._publish, saving) if self._publishes else None
            task = Task(publish, in_background=self._config.asynchronous)
            self._saving = replace(saving, task=task, is_publishing=True)

    def _copied(self, saving: "_Saving") -> "_Saving":
        """Once what was written is with the peers too. What they cannot take is missed when all is published."""
        if self._role.copies is None:
            return saving
        manifest = self._role.copies.spread(self._writer.staging(saving.name), saving.manifest)
        return replace(saving, manifest=manifest)

    def _has_failed(self, task: Task) -> bool:
        """Whether it has on some rank; the rank says why."""
        failure = task.failure()
        if failure is not None and not isinstance(failure, FolderInUseError):
            get_logger().error(f"{failure}; training goes on, and the next save tries again")
        self._failure = failure or self._failure
        self._is_last_lost = self._peers.any_true(failure is not None)
        if self._is_last_lost:
            together(self._peers, partial(_end_when_fenced_off, failure))
        return self._is_last_lost

    def _prepare(self, name: str, num_bytes: int) -> None:
        self._check_ours(name)
        self._writer.prepare(name, num_bytes)

    def _check_ours(self, name: str) -> None:
        if not self._role.is_ours():
            raise FolderInUseError(
                f"{self._folder / name} is not written: another process has taken over this output folder"
            )

    def _publish(self, saving: "_Saving") -> None:
        self._check_ours(saving.name)
        manifest = self._writer.publish(saving.name, saving.manifest)
        if not manifest.is_healthy:
            names = ", ".join(manifest.health.not_finite)
            get_logger().warning(f"{self._folder / saving.name} is unhealthy: values that are not finite in {names}")
        self._retention.saved(manifest)
        self._unfollowed = None
        for act in self._after_save:
            try:
                act(self._folder / saving.name, manifest)
            except FirstlightError as error:
                get_logger().error(f"{error}; training goes on, and the next save tries again")
                self._unfollowed = error

    def restore(self, state: Stateful, *, before: int | None = None) -> int | None:
        """Fill `state` from the newest checkpoint that loads on all ranks; its step, or None when there is none.

        Only from one of before step `before`, if that is given. A candidate that does not load is named with the
        reason, and the one before it is tried. Raises NoCheckpointError when there are candidates and none loads: a
        run never starts from zero over them. What comes from a snapshot in memory is saved on the disk at once.
        """
        self._settle()
        found = self._agreed_candidates(before)
        for folder in found:
            bring = self._found_by if folder.parent != self._folder else None
            manifest = load(folder, state.tensors(), self._peers, self._key, bring=bring, refusal=state.refusal)
            if manifest is not None:
                state.load_state_dict(manifest.state)
                if folder.parent == self._folder:
                    self._known_step = manifest.step
                    self._retention.restored(manifest)
                else:
                    self.save(state)
                return manifest.step
        if found:
            raise NoCheckpointError(
                f"none of the {len(found)} checkpoints in {self._folder} can be loaded (reasons above); "
                "repair one, or start in another output folder"
            )
        return None

    def trust(self, step: int) -> None:
        """Know that the numbers were right up to `step`: the newest checkpoint until there stays until this is told
        of a later step."""
        self._retention.trust(step)

    def remove_after(self, step: int) -> None:
        """Remove what was saved of later steps: the run has gone back. Nothing may be in flight."""
        if self._known_step is not None and self._known_step > step:
            self._known_step = None
        if self._peers.rank == 0:
            self._retention.remove_after(step)

    def _agreed_candidates(self, before: int | None) -> list[Path]:
        """The candidates that the first rank sees: a shared file system may show them to another rank later.

        Newest first; of one step, that in memory before that on the disk.
        """
        mine = [(step_of(one), place) for place, folder in enumerate(self._places) for one in candidates(folder)]
        if self._found_by is not None:
            in_memory = [(step, 0) for step in self._found_by.steps(self._places[0])]
            mine = [*in_memory, *(one for one in mine if one[1] > 0)]
        mine = [one for one in mine if before is None or one[0] < before]
        mine = sorted(mine, key=lambda one: (-one[0], one[1])) if self._peers.rank == 0 else []
        (count,) = self._peers.sum([float(len(mine))])
        if not count:
            return []
        flat = self._peers.sum([float(number) for one in mine for number in one] or [0.0] * (2 * int(count)))
        found = zip(flat[0::2], flat[1::2], strict=True)
        return [self._places[int(place)] / step_folder(int(step)) for step, place in found]


def _end_when_fenced_off(failure: FirstlightError | None) -> None:
    if isinstance(failure, FolderInUseError):
        raise failure


@dataclass(frozen=True, kw_only=True)
class _Saving:
    """A save in flight: ranks write their parts, then the first one publishes."""

    name: str
    manifest: Manifest
    task: Task
    is_publishing: bool = False


def load_newest(folder: Path, tensors: Mapping[str, Tensor], key: bytes | None = None) -> Manifest:
    """Fill `tensors` alone (say, the model's) from the newest checkpoint that loads. For one process.

    Raises NoCheckpointError when there is none.
    """
    found = candidates(folder)
    for candidate in found:
        manifest = load(candidate, tensors, Alone(), key)
        if manifest is not None:
            return manifest
    reason = "can be loaded (reasons above)" if found else "is there; train first"
    raise NoCheckpointError(f"no checkpoint in {folder} {reason}")
