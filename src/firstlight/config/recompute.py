"""What is not kept on the device until the backward pass: computed again, or moved to host memory."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from firstlight.config.section import Count, Section

LayerNumber = Annotated[int, Field(ge=0)]
Communication = Literal["repeated", "kept"]
Part = Literal["attention", "feed_forward", "shared_expert", "experts"]
Operators = Literal["products", "attention", "communication"]
Within = Literal["attention", "feed_forward", "shared_expert", "experts", "latent_up_projection"]


class LayerRange(Section):
    """Decoder layers, counted from 0; those of multi-token prediction follow the last of them."""

    first: LayerNumber = 0
    last: LayerNumber | None = None
    """The last one that is meant; null: to the end."""
    every: Count = 1
    """Every so many of them, beginning with `first`."""

    @model_validator(mode="after")
    def _begins_before_it_ends(self) -> "LayerRange":
        if self.last is not None and self.last < self.first:
            raise ValueError(f"first = {self.first} comes after last = {self.last}; use a last layer from {self.first}")
        return self

    def contains(self, layer: int) -> bool:
        """Whether `layer` is one of them."""
        is_within = self.first <= layer and (self.last is None or layer <= self.last)
        return is_within and (layer - self.first) % self.every == 0


class NoRecompute(Section):
    """Everything that the backward pass needs is kept."""

    kind: Literal["none"] = "none"


class FullRecompute(Section):
    """A layer keeps what it reads and computes the rest again."""

    kind: Literal["full"] = "full"
    layers: LayerRange = LayerRange()
    communication: Communication = "repeated"
    """Whether collectives inside of a layer run once more, or their results are kept."""


class ModuleRecompute(Section):
    """Some modules of a layer keep what they read and compute the rest again. A norm is none of them: it keeps little
    more than what it reads."""

    kind: Literal["modules"] = "modules"
    modules: Annotated[tuple[Part, ...], Field(min_length=1)]
    """`experts` are the routed ones, without router and exchange; `feed_forward` is all that stands in its place."""
    layers: LayerRange = LayerRange()
    communication: Communication = "repeated"

    @model_validator(mode="after")
    def _none_is_inside_of_another(self) -> "ModuleRecompute":
        inside = sorted({"experts", "shared_expert"} & set(self.modules))
        if "feed_forward" in self.modules and inside:
            raise ValueError(f"modules: feed_forward contains {' and '.join(inside)}; name one or the other")
        return self


class SelectiveRecompute(Section):
    """A layer keeps what it reads and the results of some operators; all that is cheap in between (norms, activations,
    rotations) is computed again."""

    kind: Literal["selective"] = "selective"
    kept: tuple[Operators, ...] = ("products", "attention", "communication")
    """The operators whose results are kept: matrix products, attention itself, collectives."""
    repeated_in: tuple[Within, ...] = ()
    """Modules inside of which products and attention are computed again all the same. `latent_up_projection` makes
    keys, values and queries out of their narrower latents (arXiv:2412.19437, section 3.2.3)."""
    layers: LayerRange = LayerRange()


Recompute = NoRecompute | FullRecompute | ModuleRecompute | SelectiveRecompute


class OffloadConfig(Section):
    """What waits in host memory while the accelerator does not need it."""

    activations: LayerRange | None = None
    """The layers whose activations wait there for the backward pass: `{}` is all of them, null none."""
    optimizer_state: Literal["device", "host"] = "device"
    """Where the optimizer's moments are. From the host they visit the device part by part in each update."""
