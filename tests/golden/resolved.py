"""Configurations as they are resolved, with paths relative to the folder of the repository."""

import os
from pathlib import Path

from firstlight.config.load import dump, load
from tests.architecture.sources import ROOT

GOLDEN = Path(__file__).parent
NAMES = ("quickstart", "deepseek-v3-4k", "deepseek-v3-32k")
EXAMPLES = {name: ROOT / "examples" / f"{name}.yaml" for name in NAMES}


def golden_file(name: str) -> Path:
    """Where the resolved configuration of an example is kept."""
    return GOLDEN / f"{name}.resolved.yaml"


def resolved(name: str) -> str:
    """The example as `firstlight config show` resolves it, every default included."""
    config = load(EXAMPLES[name]).config
    return dump(config).replace(f"{os.getcwd()}{os.sep}", "")
