"""Which checkpoints stay: the last few, those of round steps, and always the newest that is whole and healthy.

Where a run's numbers are compared now and then, so does the newest of these that was saved before the last comparison.
"""

from pathlib import Path

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.checkpoint.disk import Disk
from firstlight.checkpoint.manifest import Manifest, UnusableCheckpoint, read_manifest
from firstlight.checkpoint.reader import verify_files
from firstlight.checkpoint.step_folder import candidates, step_folder, step_of
from firstlight.checkpoint.writer import remove
from firstlight.config.training import CheckpointConfig

BAD_SINCE = "bad_since"
"""The part of a saved state that says since which step something was wrong with the run; None or absent: nothing."""


class Retention:
    """Removes old checkpoints of `folder` after each save. For the first rank."""

    def __init__(self, folder: Path, config: CheckpointConfig, disk: Disk, key: bytes | None) -> None:
        self._key = key
        self._folder = folder
        self._disk = disk
        self._config = config
        self._good: set[int] = set()
        """Steps of good checkpoints that this process has written or restored."""
        self._trusted: int | None = None

    def trust(self, step: int) -> None:
        """Know that what was saved up to `step` has right numbers; of what is saved later that is not yet known."""
        self._trusted = step

    def restored(self, manifest: Manifest) -> None:
        """Remember a checkpoint that was restored: it was verified for that."""
        self._remember(manifest)

    def saved(self, manifest: Manifest) -> None:
        """Remove what is not kept, now that `manifest` is published. A disk that refuses gives a warning."""
        self._remember(manifest)
        # A newer one is there when it was refused on restoring: it does not count, and is replaced at its step.
        self._prune([folder for folder in candidates(self._folder) if folder.name <= step_folder(manifest.step)])

    def remove_after(self, step: int) -> None:
        """Remove what was saved of later steps. A disk that refuses gives a warning."""
        self._good = {good for good in self._good if good <= step}
        self._remove([folder for folder in candidates(self._folder) if step_of(folder) > step])

    def prune(self) -> None:
        """Remove what is not kept, whoever wrote it."""
        self._prune(candidates(self._folder))

    def _prune(self, usable: list[Path]) -> None:
        old = [folder for folder in usable[self._config.keep_last :] if not self._is_round(folder)]
        if not old:
            return
        good = next((folder for folder in usable if self._is_good(folder)), None)
        kept = {good}
        if self._trusted is not None:
            kept.add(next((one for one in usable if step_of(one) <= self._trusted and self._is_good(one)), None))
        self._remove([folder for folder in old if folder not in kept])

    def _remove(self, folders: list[Path]) -> None:
        try:
            remove(self._disk, folders)
        except FirstlightError as error:
            get_logger().warning(str(error))

    def _remember(self, manifest: Manifest) -> None:
        """Good is what is healthy and was saved while nothing was wrong: a rewind may go back to it."""
        self._good.discard(manifest.step)
        if manifest.is_healthy and manifest.state.get(BAD_SINCE) is None:
            self._good.add(manifest.step)

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
        return manifest.is_healthy and manifest.state.get(BAD_SINCE) is None
