"""The model section of a command line: filled in from a Hugging Face folder where it names one."""

from collections.abc import Mapping
from typing import Any


def read_model(written: Mapping[str, Any]) -> Mapping[str, Any]:
    """As `convert.hub_section.expanded`; torch is imported only when a folder is named."""
    from firstlight.convert.hub_section import expanded

    return expanded(written)
