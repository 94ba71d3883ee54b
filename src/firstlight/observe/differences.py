"""In which keys the configurations of several runs differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from firstlight.observe.history import History

ABSENT = "-"
_PLACES = ("training.output_folder",)
"""Keys that differ between any two runs."""


def differences(runs: Sequence[History]) -> list[tuple[str, list[str]]]:
    """Key and the value in each run, for every key that is not the same in all; `ABSENT` where a run has none."""
    flat = [_flat(run.configuration) for run in runs]
    keys = sorted({key for one in flat for key in one} - set(_PLACES))
    rows = [(key, [str(one[key]) if key in one else ABSENT for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat
