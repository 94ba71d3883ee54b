"""The groups of modules whose norms are shown apart."""

GROUPS = (
    "embedding",
    "attention",
    "feed_forward",
    "router",
    "experts",
    "shared_expert",
    "norm",
    "mtp",
    "head",
    "other",
)
"""All there are, in the order of a model."""

_PARTS = ("router", "experts", "shared_expert", "attention", "feed_forward")


def group_of(name: str) -> str:
    """The group of a parameter by its name, as in `layers.3.attention.o_proj.weight`."""
    words = name.split(".")
    if words[0] in ("embedding", "head", "mtp"):
        return words[0]
    if any(word.endswith("norm") for word in words):
        return "norm"
    return next((part for part in _PARTS if part in words), "other")


def layer_of(name: str) -> int | None:
    """The number of the decoder layer that a parameter is in; None outside of them."""
    words = name.split(".")
    return int(words[1]) if words[0] == "layers" else None
