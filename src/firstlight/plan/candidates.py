"""Layouts that a search compares: every combination of degrees, schedules, micro-batches and recomputation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from firstlight.base.errors import InputError
from firstlight.config.model import MoeFeedForward
from firstlight.config.pipeline import STAGES_PER_RANK, PipelineConfig, ScheduleName
from firstlight.config.recompute import FullRecompute, NoRecompute, Recompute, SelectiveRecompute
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import sequence_lengths
from firstlight.config.training import ParallelismConfig, Sharded

_MOST_STAGES_OF_A_RANK = 4
_MICRO_BATCHES = (1, 2, 4)
_FEWEST_POSITIONS = 2048
"""Of a sequence on a rank of a context group: with fewer there is little left to compute between transfers."""
_ALL_FORWARD_FIRST: frozenset[ScheduleName] = frozenset({"gpipe", "looped_bfs"})
"""Schedules that hold all micro-batches: only where they are pinned."""
_SHARDED: tuple[Sharded, ...] = ("all", "optimizer")
RECOMPUTED: tuple[Recompute, ...] = (NoRecompute(), SelectiveRecompute(), FullRecompute())

PINNED = (
    "pipeline_parallel",
    "tensor_parallel",
    "context_parallel",
    "expert_parallel",
    "expert_tensor_parallel",
    "data_parallel_replicate",
    "sharded",
    "schedule",
    "stages_per_rank",
    "micro_batch_size",
    "recompute",
)
"""What a search varies, and can be told to leave as it is: `recompute` by its kind."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A layout and what belongs to it."""

    parallelism: ParallelismConfig
    micro_batch_size: int
    recompute: Recompute

    def of(self, config: RunConfig) -> RunConfig:
        """The run with this layout."""
        training = config.training.model_copy(update={"micro_batch_size": self.micro_batch_size})
        changes = {"parallelism": self.parallelism, "training": training, "recompute": self.recompute}
        return config.model_copy(update=changes)

    def describe(self) -> str:
        """In a line, without what is 1."""
        layout, pipeline = self.parallelism, self.parallelism.pipeline
        shown = [f"{name} {getattr(layout, name)}" for name in _DEGREES if getattr(layout, name) > 1]
        if layout.pipeline_parallel > 1:
            shown.append(f"{pipeline.schedule} with {pipeline.num_stages_per_rank} stage(s) of a rank")
        shown += [f"sharded {layout.sharded}", f"micro_batch_size {self.micro_batch_size}"]
        return ", ".join([*shown, f"recompute {self.recompute.kind}"])


_DEGREES = (
    "pipeline_parallel",
    "data_parallel_replicate",
    "data_parallel_shard",
    "context_parallel",
    "tensor_parallel",
    "expert_parallel",
    "expert_tensor_parallel",
)


def read_pins(pins: Sequence[str]) -> dict[str, str]:
    """`name=value` as given on a command line. Raises InputError for what is not varied."""
    found = {}
    for pin in pins:
        name, equals, value = pin.partition("=")
        name = name.rpartition(".")[2] if name.rpartition(".")[2] in PINNED else name
        if not equals or name not in PINNED:
            raise InputError(f"--pin {pin} is not one of NAME=VALUE; names are {', '.join(PINNED)}")
        found[name] = value
    return found


def candidates(config: RunConfig, world_size: int, ranks_per_node: int, pins: Mapping[str, str]) -> Iterator[Candidate]:
    """All combinations that divide evenly; rules of the configuration that do not follow from that are not applied."""
    pick = _Picker(pins)
    pipelines = list(_pipelines(config, world_size, pick))
    micro_batches = pick.numbers("micro_batch_size", _MICRO_BATCHES)
    kinds = [one for one in _recomputed(config) if pick.allows("recompute", one.kind)]
    for parallelism in _degrees(config, world_size, ranks_per_node, pick):
        ways = [one for degree, one in pipelines if degree == parallelism.pipeline_parallel]
        for pipeline, size, recompute in product(ways, micro_batches, kinds):
            yield Candidate(
                parallelism=parallelism.model_copy(update={"pipeline": pipeline}),
                micro_batch_size=size,
                recompute=recompute,
            )


@dataclass(frozen=True)
class _Picker:
    pins: Mapping[str, str]

    def allows(self, name: str, value: object) -> bool:
        """Whether nothing else is pinned."""
        return name not in self.pins or self.pins[name] == str(value)

    def numbers(self, name: str, usual: Sequence[int]) -> list[int]:
        """Those of `usual`; what is pinned, be it usual or not. Raises InputError where that is no number."""
        if name not in self.pins:
            return list(usual)
        if not self.pins[name].isdecimal() or int(self.pins[name]) < 1:
            raise InputError(f"--pin {name}={self.pins[name]} is not a number from 1")
        return [int(self.pins[name])]


def _recomputed(config: RunConfig) -> list[Recompute]:
    """The usual kinds; the configuration's own in the place of the usual one of its kind."""
    own = config.recompute
    usual = [one for one in RECOMPUTED if one.kind != own.kind]
    return [*usual, own]


def _degrees(config: RunConfig, world_size: int, ranks_per_node: int, pick: _Picker) -> Iterator[ParallelismConfig]:
    model, length = config.model, max(sequence_lengths(config).values())
    mixture = model.feed_forward if isinstance(model.feed_forward, MoeFeedForward) else None
    experts = mixture.n_routed_experts if mixture else 1
    pipelines = pick.numbers("pipeline_parallel", divisors(world_size))
    tensors = pick.numbers("tensor_parallel", [one for one in divisors(world_size) if one <= ranks_per_node])
    most = max(1, length // _FEWEST_POSITIONS)
    contexts = pick.numbers("context_parallel", [one for one in divisors(world_size) if one <= most])
    slices = pick.numbers("expert_tensor_parallel", (1,))
    replicas = pick.numbers("data_parallel_replicate", (1, 2))
    for pp, tp, cp, copies in product(pipelines, tensors, contexts, replicas):
        if world_size % (pp * tp * cp * copies) or pp > model.num_hidden_layers + 1:
            continue
        shard = world_size // (pp * tp * cp * copies)
        for ep, etp in product(pick.numbers("expert_parallel", divisors(experts)), slices):
            if shard * cp * tp % (ep * etp):
                continue
            for sharded in _SHARDED if shard > 1 else _SHARDED[:1]:
                if pick.allows("sharded", sharded):
                    yield ParallelismConfig(
                        data_parallel_replicate=copies,
                        data_parallel_shard=shard,
                        sharded=sharded,
                        tensor_parallel=tp,
                        pipeline_parallel=pp,
                        context_parallel=cp,
                        expert_parallel=ep,
                        expert_tensor_parallel=etp,
                    )


def _pipelines(config: RunConfig, world_size: int, pick: _Picker) -> Iterator[tuple[int, PipelineConfig]]:
    """With the degree that they are for; one stage for each rank has one way."""
    yield 1, PipelineConfig()
    schedules: list[ScheduleName] = [
        one
        for one in STAGES_PER_RANK
        if pick.allows("schedule", one) and (one not in _ALL_FORWARD_FIRST or "schedule" in pick.pins)
    ]
    for degree, schedule in product(pick.numbers("pipeline_parallel", divisors(world_size)), schedules):
        fewest, most = STAGES_PER_RANK[schedule]
        for stages in range(fewest, (most or _MOST_STAGES_OF_A_RANK) + 1):
            fits = degree > 1 and degree * stages <= config.model.num_hidden_layers + 1
            if fits and pick.allows("stages_per_rank", stages):
                yield degree, PipelineConfig(schedule=schedule, stages_per_rank=stages)


def divisors(number: int) -> list[int]:
    """In ascending order."""
    return [one for one in range(1, number + 1) if number % one == 0]
