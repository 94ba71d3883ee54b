"""Hugging Face folders of a run's weights, written while it trains, from the checkpoint that was just published."""

import shutil
from pathlib import Path

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.checkpoint.disk import LocalDisk
from firstlight.checkpoint.files import flush_folder
from firstlight.checkpoint.manifest import Manifest
from firstlight.checkpoint.saved_tensors import SavedTensors
from firstlight.checkpoint.step_folder import step_folder
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import model_after
from firstlight.convert.huggingface import ExportedTokenizer, export_saved
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer
from firstlight.train.run_folder import RunFolder


class PeriodicExport:
    """After saves of multiples of `checkpoint.export_every_steps`; the first rank calls it, beside the training."""

    def __init__(self, config: RunConfig, folder: RunFolder) -> None:
        self._config = config
        self._folder = folder

    def __call__(self, saved: Path, manifest: Manifest) -> None:
        """Write `exports/step-N`, whole or not at all. Raises FirstlightError when the disk refuses."""
        output = self._folder.exports / step_folder(manifest.step)
        if manifest.step % self._config.checkpoint.export_every_steps or output.exists():
            return
        if not manifest.is_healthy:
            get_logger().warning(f"{output} is not written: the checkpoint is unhealthy")
            return
        try:
            self._write(saved, manifest, output)
        except OSError as error:
            raise FirstlightError(f"{output} is not written: {error}") from error

    def _write(self, saved: Path, manifest: Manifest, output: Path) -> None:
        aside = output.with_name(f".partial-{output.name}")
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir(parents=True)
        export_saved(
            model_after(self._config, manifest.step),
            SavedTensors(folder=saved, manifest=manifest),
            aside,
            exported_tokenizer(self._folder.tokenizer),
            dtype=self._config.checkpoint.export_dtype,
        )
        disk = LocalDisk()
        for path in (*sorted(aside.iterdir()), aside):
            flush_folder(disk, path)
        disk.rename(aside, output)
        flush_folder(disk, output.parent)


def exported_tokenizer(file: Path) -> ExportedTokenizer:
    """A tokenizer.json and its token for the end of a document. Raises InputError when it has none."""
    tokenizer = load_tokenizer(file)
    end = end_of_document_id(tokenizer, file)
    return ExportedTokenizer(file=file, end_of_document=str(tokenizer.id_to_token(end)), end_of_document_id=end)
