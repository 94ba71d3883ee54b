"""What is looked at before a run begins."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from firstlight.base.errors import InputError
from firstlight.checkpoint.step_folder import candidates
from firstlight.config.load import load
from firstlight.train.start_checks import require_space, what_ranks_share
from tests.runs import make_tiny_run
from tests.unit.train.tiny import train_here


def test_two_checkpoints_must_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_tiny_run(tmp_path / "run")
    train_here(run)
    config = load(run.output / "config.yaml").config
    written = sum(file.stat().st_size for file in candidates(run.checkpoints)[0].glob("*.safetensors"))
    # Headers of the files are not counted.
    for free, fits in ((2 * written, True), (int(1.8 * written), False)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _folder, free=free: SimpleNamespace(free=free))
        if fits:
            require_space(config, run.output)
        else:
            with pytest.raises(InputError, match=rf"has {free:,} bytes free, and two checkpoints of this run take"):
                require_space(config, run.output)


def test_what_ranks_share_follows_from_configuration_and_data(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    config = load(run.folder / "run.yaml").config
    one, other = what_ranks_share(config, "a"), what_ranks_share(config, "b")
    assert [name for name in one if one[name] != other[name]] == ["the training data"]
