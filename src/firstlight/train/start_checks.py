"""What is looked at once, before anything is built: whether all ranks run the same program on the same input."""

import hashlib
import platform
import shutil
from functools import cache
from importlib.metadata import version
from pathlib import Path

import firstlight
from firstlight.base.errors import InputError
from firstlight.config.load import dump
from firstlight.config.schema import RunConfig
from firstlight.layout.memory import Kept, state_of_rank
from firstlight.layout.mesh import Layout

PACKAGES = ("torch", "numpy", "tokenizers", "safetensors")


def versions() -> dict[str, str]:
    """Of the program and of what it computes with."""
    named = {"firstlight": firstlight.__version__, "python": platform.python_version()}
    return named | {package: version(package) for package in PACKAGES}


def what_ranks_share(config: RunConfig, data_fingerprint: str, own_code: str = "") -> dict[str, str]:
    """Texts by name that are to be the same on all ranks. `own_code` is the digest of a model class of the user's."""
    return {
        "the configuration": dump(config),
        "the training data": data_fingerprint,
        "the versions of Python or its packages": str(versions()),
        "the code of firstlight": _digest_of_code(),
        "the registered model class": own_code,
    }


def require_space(config: RunConfig, folder: Path) -> None:
    """Raise InputError when two checkpoints of the run do not fit in `folder`: a new one is written before an old one
    goes."""
    kept = Kept(optimizer=config.optimizer, averages=config.averages)
    state = state_of_rank(config.model, Layout(), 0, kept=kept)
    needed, free = 2 * (state.parameters + state.moments + state.averages), shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"training.output_folder = {folder} has {free:,} bytes free, and two checkpoints of this run take "
            f"{needed:,}; free some, or use a folder on another disk"
        )


@cache
def _digest_of_code() -> str:
    """Over all source files of the package, which takes some 20 ms."""
    digest = hashlib.sha256()
    root = Path(firstlight.__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
