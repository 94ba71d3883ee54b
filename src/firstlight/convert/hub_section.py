"""The model section of a Hugging Face folder's config.json, and what a configuration may say beside it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.models.family import family_of_config_json

_FREE = (
    "from_hf",
    "initializer_range",
    "max_position_embeddings",
    "attention.rope",
    "multi_token_prediction",
    "feed_forward.router.bias_update_rate",
    "feed_forward.router.sequence_balance_loss",
    "feed_forward.router.balance_loss",
    "feed_forward.router.force_balance",
    "feed_forward.router.capacity_factor",
)
"""What may differ: how it is trained on, and how far its context is stretched."""


def read_section(folder: Path) -> dict[str, Any]:
    """The model section that `folder`/config.json describes. Raises InputError that names what is not supported."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name a Hugging Face folder with model.from_hf") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} is no object of fields")
    try:
        model = family_of_config_json(values).read_config_json(values)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return model.model_dump(mode="json", exclude={"from_hf"})


def expanded(written: Mapping[str, Any]) -> dict[str, Any]:
    """A written model section that names `from_hf`, filled in from that folder.

    Raises InputError when it says something else than the folder does, of what weights depend on.
    """
    folder = Path(str(written["from_hf"])).expanduser().absolute()
    section = read_section(folder)
    different = [line for line in _laid_over(section, written, "") if line]
    if different:
        lines = "\n".join(f"  {line}" for line in different)
        raise InputError(
            f"model.from_hf = {folder} has another model than the section says:\n{lines}\n"
            "Leave these keys out, or name another folder"
        )
    return section


def _laid_over(section: dict[str, Any], written: Mapping[str, Any], path: str) -> Iterator[str]:
    """Lay what is written over `section`; yields what differs and may not."""
    for key, value in written.items():
        place = f"{path}{key}"
        if any(place == free or place.startswith(f"{free}.") for free in _FREE):
            section[key] = value
        elif isinstance(value, Mapping) and isinstance(section.get(key), dict):
            yield from _laid_over(section[key], value, f"{place}.")
        elif section.get(key) != value:
            yield f"model.{place} = {value!r}, there {section.get(key)!r}"
