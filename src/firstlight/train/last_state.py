"""Final-state saving: when no rank starts again, the newest state in memory goes to the disk."""

from collections.abc import Callable
from pathlib import Path

from firstlight.checkpoint.key import read_key
from firstlight.checkpoint.memory import rescue, rescue_share, snapshot_folder
from firstlight.config.schema import RunConfig
from firstlight.train.run_folder import RunFolder


def last_state_saver(config: RunConfig, node: int | None = None) -> Callable[[], Path | None]:
    """For the launcher: makes the newest snapshot durable; the checkpoint's folder, or None when there is no newer one.
    On one of several nodes it copies what this `node` has of it.

    Raises FirstlightError when the disk refuses.
    """
    folder = RunFolder(path=config.training.output_folder)

    def save() -> Path | None:
        if config.resilience.snapshot_every_steps == 0 or not folder.is_claimed:
            return None
        snapshots, key = snapshot_folder(folder.identity, folder.path, node), read_key(config.checkpoint.key_file)
        return (rescue if node is None else rescue_share)(snapshots, folder.checkpoints, key)

    return save
