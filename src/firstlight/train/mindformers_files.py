"""The weights of each checkpoint as one file in MindFormers' layout, for what looks for it there.

Names: `CheckpointMonitor` of MindFormers 1.x, PREFIX_rank_RANK-EPOCH_STEP.safetensors and meta.json beside it.
"""

import json
import re
from pathlib import Path

from firstlight.base.errors import FirstlightError
from firstlight.base.log import get_logger
from firstlight.checkpoint.files import replace_durably
from firstlight.checkpoint.manifest import Manifest
from firstlight.checkpoint.saved_tensors import SavedTensors
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import model_after
from firstlight.config.training import MindFormersFiles
from firstlight.convert.conversion import Conversion, ConversionPlan
from firstlight.convert.formats import format_named
from firstlight.convert.mindformers_weights import MindFormersChoices
from firstlight.convert.run_weights import saved_weights
from firstlight.convert.weight_format import OpenedWeights, ReadChoices
from firstlight.models.mindformers_rows import MindFormersLayout, mindformers_table
from firstlight.train.run_folder import RunFolder

_SUFFIX = ".safetensors"


class WrittenMindFormersFiles:
    """After every save; the first rank calls it, beside the training. Raises InputError for a model that MindFormers
    does not name."""

    def __init__(self, files: MindFormersFiles, config: RunConfig, folder: RunFolder) -> None:
        self._files, self._config, self._folder = files, config, folder.mindformers_files
        mindformers_table(config.model, MindFormersLayout())  # refuses what MindFormers has no names for
        self._choices = MindFormersChoices(
            is_interleaved=files.gate_up == "interleaved", is_grouped=files.qkv == "grouped"
        )

    def __call__(self, saved: Path, manifest: Manifest) -> None:
        """Write the weights of `saved`, whole or not at all. Raises FirstlightError when the disk refuses."""
        model = model_after(self._config, manifest.step)
        epoch, step = divmod(manifest.step - 1, self._files.steps_per_epoch)
        name = f"{self._files.prefix}_rank_0-{epoch + 1}_{step + 1}{_SUFFIX}"
        if (self._folder / name).exists():
            return
        if not manifest.is_healthy:
            get_logger().warning(f"{self._folder / name} is not written: the checkpoint is unhealthy")
            return
        weights = saved_weights(model, SavedTensors(folder=saved, manifest=manifest))
        plan = ConversionPlan(
            Conversion(
                origin=saved,
                opened=OpenedWeights(model=model, weights=weights),
                choices=ReadChoices(mindformers=self._choices),
                target=format_named("mindspore-safetensors"),
                output=self._folder / name,
            )
        )
        if plan.num_bytes > self._files.up_to_gigabytes * 1e9:
            get_logger().warning(
                f"{self._folder / name} is not written: its {plan.num_bytes / 1e9:,.0f} GB are more than "
                f"checkpoint.mindformers_files.up_to_gigabytes = {self._files.up_to_gigabytes:g}; "
                "firstlight convert writes it from the run's folder"
            )
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            plan.run(lambda _done: None)
            self._leave(name, epoch + 1, step + 1)
        except OSError as error:
            raise FirstlightError(f"{self._folder / name} is not written: {error}") from error

    def _leave(self, name: str, epoch: int, step: int) -> None:
        """Say which is the newest, and remove those that are too many."""
        facts = {"last_epoch": epoch, "last_step": step, "last_ckpt_file": name}
        replace_durably(self._folder / "meta.json", json.dumps(facts).encode())
        for path in self._ours()[: -self._config.checkpoint.keep_last]:
            path.unlink()

    def _ours(self) -> list[Path]:
        """Oldest first."""
        pattern = re.compile(re.escape(self._files.prefix) + r"_rank_0-(\d+)_(\d+)" + re.escape(_SUFFIX))
        found = {path: pattern.fullmatch(path.name) for path in self._folder.iterdir()}
        places = {path: (int(one[1]), int(one[2])) for path, one in found.items() if one is not None}
        return sorted(places, key=lambda path: places[path])
