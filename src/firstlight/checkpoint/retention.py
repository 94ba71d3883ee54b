"""Which checkpoints stay: the last few, those of round steps, and always the newest that is whole and healthy."""

from pathlib import Path

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.checkpoint.disk import Disk
from firstlight.checkpoint.manifest import Manifest, UnusableCheckpoint, read_manifest
from firstlight.checkpoint.reader import verify_files
from firstlight.checkpoint.step_folder import candidates, step_folder, step_of
from firstlight.checkpoint.writer import remove
from firstlight.config.training import CheckpointConfig


class Retention:
    """Removes old checkpoints of `folder` after each save. For the first rank."""

    def __init__(self, folder: Path, config: CheckpointConfig, disk: Disk, key: bytes | None) -> None:
        self._key = key
        self._folder = folder
        self._disk = disk
        self._config = config
        self._good: set[int] = set()
        """Steps of healthy checkpoints that this process has written or restored."""

    def restored(self, manifest: Manifest) -> None:
        """Remember a checkpoint that was restored: it was verified for that."""
        self._good.add(manifest.step)

    def saved(self, manifest: Manifest) -> None:
        """Remove what is not kept, now that `manifest` is published. A disk that refuses gives a warning."""
        if manifest.is_healthy:
            self._good.add(manifest.step)
        # A newer one is there when it was refused on restoring: it does not count, and is replaced at its step.
        self._prune([folder for folder in candidates(self._folder) if folder.name <= step_folder(manifest.step)])

    def prune(self) -> None:
        """Remove what is not kept, whoever wrote it."""
        self._prune(candidates(self._folder))

    def _prune(self, usable: list[Path]) -> None:
        old = [folder for folder in usable[self._config.keep_last :] if not self._is_round(folder)]
        if not old:
            return
        good = next((folder for folder in usable if self._is_good(folder)), None)
        try:
            remove(self._disk, [folder for folder in old if folder != good])
        except FirstlightError as error:
            get_logger().warning(str(error))

    def _is_round(self, folder: Path) -> bool:
        every = self._config.keep_every_steps
        return every > 0 and step_of(folder) % every == 0

    def _is_good(self, folder: Path) -> bool:
        if step_of(folder) in self._good:
            return True
        try:
            manifest = read_manifest(folder, self._key)
            verify_files(folder, manifest)
        except UnusableCheckpoint:
            return False
        return manifest.is_healthy
