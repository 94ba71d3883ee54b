"""The newest checkpoint of a run, verified once and then read tensor by tensor, by who does not want the whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from firstlight.base.errors import NoCheckpointError
from firstlight.base.log import get_logger
from firstlight.checkpoint.manifest import Manifest, UnusableCheckpoint, read_manifest
from firstlight.checkpoint.pieces import verify_file
from firstlight.checkpoint.reader import ReadPlan
from firstlight.checkpoint.shards import local_shard
from firstlight.checkpoint.step_folder import candidates


@dataclass(frozen=True, kw_only=True)
class SavedTensors:
    """A checkpoint whose files are as they were recorded."""

    folder: Path
    manifest: Manifest

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Fill these tensors, by their names in the checkpoint. Raises UnusableCheckpoint when one is not there."""
        self._plan(tensors).read_verified()

    def verify(self, tensors: Mapping[str, Tensor]) -> None:
        """Raise UnusableCheckpoint unless tensors of these shapes, on any device, can be filled and files are whole."""
        for file in sorted(self._plan(tensors).files):
            verify_file(self.folder / file, self.manifest.files[file])

    def _plan(self, tensors: Mapping[str, Tensor]) -> ReadPlan:
        shards = {name: local_shard(tensor, is_first_rank=False) for name, tensor in tensors.items()}
        return ReadPlan(self.folder, self.manifest, shards)


def open_newest(folder: Path, tensors: Mapping[str, Tensor], key: bytes | None = None) -> SavedTensors:
    """The newest checkpoint in `folder` that has `tensors`, which may be on the meta device. For one process.

    Raises NoCheckpointError when there is none.
    """
    found = candidates(folder)
    for candidate in found:
        try:
            saved = SavedTensors(folder=candidate, manifest=read_manifest(candidate, key))
            saved.verify(tensors)
        except UnusableCheckpoint as error:
            get_logger().warning(f"checkpoint passed over: {error}")
        else:
            return saved
    reason = "can be loaded (reasons above)" if found else "is there; train first"
    raise NoCheckpointError(f"no checkpoint in {folder} {reason}")
