"""What keeps a run's state: on the disk, and in memory where that is asked for."""

from dataclasses import dataclass, replace
from pathlib import Path

from firstlight.base.errors import InputError
from firstlight.checkpoint.checkpointer import AfterSave, Checkpointer, Role
from firstlight.checkpoint.key import read_key
from firstlight.checkpoint.memory import MemoryDisk, snapshot_folder
from firstlight.checkpoint.object_store import ObjectStore, StoredCopies, open_store, remove_after
from firstlight.checkpoint.peer_copies import PeerCopies
from firstlight.config.schema import RunConfig
from firstlight.config.training import CheckpointConfig
from firstlight.layout.mesh import Layout
from firstlight.parallel.carrier import RankCarrier
from firstlight.train.exports import PeriodicExport
from firstlight.train.mindformers_files import WrittenMindFormersFiles
from firstlight.train.place import Place
from firstlight.train.recording import CheckpointEvents


@dataclass(frozen=True, kw_only=True)
class Checkpointers:
    """Both kinds; without snapshots there is none in memory."""

    on_disk: Checkpointer
    in_memory: Checkpointer | None
    stored: ObjectStore | None
    """Where the first rank puts copies."""

    def remove_after(self, step: int) -> None:
        """Remove what was saved of later steps, wherever it lies: the run has gone back."""
        for one in (self.on_disk, self.in_memory):
            if one is not None:
                one.remove_after(step)
        if self.stored is not None:
            remove_after(self.stored, step)


def checkpointers(config: RunConfig, place: Place, layout: Layout) -> Checkpointers:
    """Those of this rank. Raises InputError where there is no memory for snapshots."""
    copy_to = config.checkpoint.copy_to
    stored = open_store(copy_to) if copy_to is not None and place.world.rank == 0 else None
    role = Role(writes_whole_tensors=layout.is_first_of_stage(place.world.rank), is_ours=place.lock.is_held)
    on_disk = Checkpointer(
        place.folder.checkpoints,
        config.checkpoint,
        place.peers,
        configuration=config.model_dump(mode="json"),
        role=role,
        after_save=_after_save(config, place, stored),
    )
    memory = _memory(config, place)
    if memory is None:
        return Checkpointers(on_disk=on_disk, in_memory=None, stored=stored)
    copies = _copies(config, place)
    on_disk.look_first_in(memory, copies)
    return Checkpointers(on_disk=on_disk, in_memory=_snapshots(config, place, memory, role, copies), stored=stored)


def _memory(config: RunConfig, place: Place) -> Path | None:
    """Where snapshots are, if the run takes any."""
    if config.resilience.snapshot_every_steps == 0:
        return None
    node = place.world.node
    if node is None and place.world.local_size < place.world.size:
        raise InputError(
            f"resilience.snapshot_every_steps = {config.resilience.snapshot_every_steps} needs Firstlight's own "
            f"launcher on each machine (--nodes); {place.world.local_size} of {place.world.size} ranks are here; use 0"
        )
    return snapshot_folder(place.folder.identity, place.folder.path, None if node is None else node.node)


def _copies(config: RunConfig, place: Place) -> PeerCopies | None:
    """Between the memories of several nodes. One that goes on alone has its own files and a copy of its neighbour's."""
    if place.world.node is None or place.world.node.count == 1:
        return None
    key = read_key(config.checkpoint.key_file)
    return PeerCopies(RankCarrier(place.device), ranks_per_node=place.world.local_size, key=key)


def _snapshots(config: RunConfig, place: Place, memory: Path, role: Role, copies: PeerCopies | None) -> Checkpointer:
    """Two copies, of which one is whole while the other is written; not in the background, so that none lags."""
    often = CheckpointConfig(
        save_every_steps=config.resilience.snapshot_every_steps,
        keep_last=2,
        asynchronous=False,
        key_file=config.checkpoint.key_file,
    )
    return Checkpointer(
        memory,
        often,
        place.peers,
        configuration=config.model_dump(mode="json"),
        role=replace(role, publishes=place.world.local_rank == 0, copies=copies),
        disk=MemoryDisk(),
    )


def _after_save(config: RunConfig, place: Place, stored: ObjectStore | None) -> list[AfterSave]:
    """What is done with every published checkpoint."""
    acts: list[AfterSave] = [CheckpointEvents(place.events)]
    if stored is not None:
        acts.append(StoredCopies(stored, config.checkpoint))
    if config.checkpoint.export_every_steps:
        acts.append(PeriodicExport(config, place.folder))
    if config.checkpoint.mindformers_files is not None and place.own_model is None:
        acts.append(WrittenMindFormersFiles(config.checkpoint.mindformers_files, config, place.folder))
    return acts
