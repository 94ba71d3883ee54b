"""Which layers each stage of a pipeline has, and which stages each rank. Pure arithmetic."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Consecutive decoder layers. The first stage also has the embedding; the last one the final norm, the head and
    the layers of multi-token prediction."""

    index: int = 0
    count: int = 1
    layers: range

    @property
    def is_first(self) -> bool:
        return self.index == 0

    @property
    def is_last(self) -> bool:
        return self.index == self.count - 1
