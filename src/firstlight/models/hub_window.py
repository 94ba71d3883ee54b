"""Sliding windows in config.json: which layers slide is a list of layer types there, a pattern here."""

from collections.abc import Callable, Sequence
from typing import Any

from firstlight.config.model import GroupedQueryAttention, ModelConfig, SlidingWindow
from firstlight.models.hub_config import Joint, Json, RefusedFieldError

_SLIDING, _FULL = "sliding_attention", "full_attention"
_FIELDS = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")

Slides = Callable[[Json, int], bool]
"""Whether a layer slides by the fields of config.json, where these have no layer types."""


def window_row(*, slides: Slides, has_switch: bool, has_layer_types: bool, unused_size: int | None = None) -> Joint:
    """The row of a family whose layers slide as `slides` says.

    `has_switch`: `use_sliding_window` turns it on; without it a size does. `has_layer_types`: the list is written.
    `unused_size` is what is written where no layer slides.
    """

    def read(values: Json) -> dict[str, Any] | None:
        size = values.get("sliding_window")
        if has_switch and not values.get("use_sliding_window", False):
            size = None
        layers = range(values["num_hidden_layers"])
        given = values.get("layer_types")
        kinds = given or [_SLIDING if size and slides(values, layer) else _FULL for layer in layers]
        return _window(size, kinds)

    def write(model: ModelConfig) -> Json:
        assert isinstance(model.attention, GroupedQueryAttention), "the family has no other attention"
        window = model.attention.window
        out: dict[str, Any] = {"sliding_window": window.size if window else unused_size}
        if has_switch:
            out["use_sliding_window"] = window is not None
        if has_switch and has_layer_types and window:
            out["max_window_layers"] = window.first_layer
        if has_layer_types:
            out["layer_types"] = _layer_types(window, model.num_hidden_layers)
        return out

    fields = tuple(name for name in _FIELDS if name != "layer_types" or has_layer_types)
    return Joint(fields=fields, ours="attention.window", to_ours=read, to_theirs=write)


def every_layer(_values: Json, _layer: int) -> bool:
    """All layers slide."""
    return True


def every_other_layer(_values: Json, layer: int) -> bool:
    """The first layer slides, the second does not, and so on."""
    return layer % 2 == 0


def from_max_window_layers(values: Json, layer: int) -> bool:
    """The layers from `max_window_layers` on slide."""
    return bool(layer >= values.get("max_window_layers", 28))


def _layer_types(window: SlidingWindow | None, num_layers: int) -> list[str]:
    return [_SLIDING if window and window.slides(layer) else _FULL for layer in range(num_layers)]


def _window(size: int | None, kinds: Sequence[str]) -> dict[str, Any] | None:
    """The pattern that gives these layer types."""
    if _SLIDING not in kinds and set(kinds) <= {_FULL}:
        return None
    if size is None:
        raise RefusedFieldError("layer_types name sliding layers, and sliding_window gives no size")
    first = next((layer for layer, kind in enumerate(kinds) if kind == _SLIDING), 0)
    patterns = [SlidingWindow(size=size, first_layer=first)]
    patterns += [SlidingWindow(size=size, full_every=every) for every in range(2, len(kinds) + 1)]
    for window in patterns:
        if _layer_types(window, len(kinds)) == list(kinds):
            return window.model_dump()
    raise RefusedFieldError(f"layer_types = {list(kinds)} follow no pattern that a window can have")
