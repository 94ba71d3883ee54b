"""How many bytes a parameter takes where it is kept and where layers use it, by the precision of a run."""

from dataclasses import dataclass

from firstlight.config.precision import Precision, parameter_type

_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True, kw_only=True)
class NumberBytes:
    """`kept`: of a weight in its shard, of its gradient there, and of a full moment. `gathered`: of a parameter that a
    layer computes with. `number_bytes` of the functions in `memory` are the first for `state_of_rank`, the second for
    the others."""

    kept: int
    gathered: int

    @classmethod
    def of(cls, precision: Precision) -> "NumberBytes":
        """Weights are kept in fp32 in every precision; 8-bit copies last as long as a product."""
        return cls(kept=_BYTES["fp32"], gathered=_BYTES[parameter_type(precision)])
