"""Finds the fastest layout of a run: candidates by memory, what fits by an estimate, the best by simulation."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from firstlight.base.errors import InputError
from firstlight.config.pipeline import SPLITS_BACKWARD
from firstlight.config.rules import broken_rules
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import timeline_of
from firstlight.config.training import ParallelismConfig
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import stages_on
from firstlight.plan.candidates import RECOMPUTED, Candidate, candidates
from firstlight.plan.forecast import Forecast, forecast
from firstlight.plan.hardware import Hardware
from firstlight.plan.links import group_on, seconds_of_call
from firstlight.plan.passes import Passes, passes_of_stage
from firstlight.plan.pieces import Pieces
from firstlight.plan.work import Work

SIMULATED = 24
"""Of the candidates that fit, and as many of each kind of recomputation as its share of them."""
_SPLIT_BACKWARD_BUBBLE = 1 / 3
"""What is left of a bubble that gradients of weights fill."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A candidate that fits, with its forecast."""

    candidate: Candidate
    plan: Forecast

    @property
    def seconds(self) -> float:
        return self.plan.step.total

    @property
    def most_bytes(self) -> int:
        """Of the place that needs most."""
        return max(one.total for one in self.plan.memory)

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of a step on its busiest rank, by what they go to."""
        exposed = self.plan.exposed
        return {
            **exposed,
            "computation": self.seconds - sum(exposed.values()) - self.plan.step.update,
            "update": self.plan.step.update,
        }


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search found, the fastest first."""

    num_candidates: int
    num_fitting: int
    """That divide evenly and need no more than a device has, at any place."""
    simulated: list[Found]

    @property
    def best(self) -> Found:
        return self.simulated[0]

    @property
    def front(self) -> list[Found]:
        """Those than which no other one is faster and leaves more memory, the fastest first."""
        front: list[Found] = []
        for one in self.simulated:
            if not front or one.most_bytes < front[-1].most_bytes:
                front.append(one)
        return front


def search(config: RunConfig, world_size: int, hardware: Hardware, pins: Mapping[str, str]) -> Search:
    """The layouts of a run. Raises InputError where none of them fits."""
    sieve = _Sieve(config, world_size, hardware)
    count = 0
    for candidate in candidates(config, world_size, hardware.ranks_per_node, pins):
        count += 1
        sieve.take(candidate)
    simulated = [Found(candidate=one, plan=sieve.forecast(one)) for one in sieve.best()]
    room = hardware.memory_bytes.value
    fitting = sorted((one for one in simulated if one.most_bytes <= room), key=lambda one: one.seconds)
    if not fitting:
        raise InputError(
            f"none of {count:,} layouts of {world_size} ranks fits into {room / 1e9:.0f} GB of {hardware.name} and "
            "keeps the configuration's rules; use more ranks, fewer --pin, "
            "offload.optimizer_state host, or a larger global_batch_size where the ranks leave too few micro-batches"
        )
    return Search(num_candidates=count, num_fitting=sieve.num_fitting, simulated=fitting)


class _Sieve:
    """Keeps the candidates that promise most."""

    def __init__(self, config: RunConfig, world_size: int, hardware: Hardware) -> None:
        self._config, self._world_size, self._hardware = config, world_size, hardware
        self._pieces = Pieces(config.offload)
        self._room = hardware.memory_bytes.value - hardware.reserve_bytes.value
        self._sequences = timeline_of(config).stretches[-1].batch_size
        self._work = Work.of(config.model_copy(update={"parallelism": ParallelismConfig()}), 1, hardware.kernels)
        self._heaps: dict[str, list[tuple[float, int, Candidate]]] = {one.kind: [] for one in RECOMPUTED}
        self._passes: dict[Any, Passes] = {}
        self.num_fitting = 0

    def take(self, candidate: Candidate) -> None:
        """Keep it, if it divides evenly, fits and is among the fastest by estimate."""
        work = self._work_of(candidate)
        if work is None or not _divides(work):
            return
        places = sorted(range(work.layout.pp), key=lambda place: (place > 1, -place))
        if any(self._pieces.most_bytes(work, [place]) > self._room for place in places):
            return
        self.num_fitting += 1
        heap = self._heaps.setdefault(candidate.recompute.kind, [])
        entry = -self._estimate(work), -self.num_fitting, candidate
        if len(heap) < _KEPT:
            heapq.heappush(heap, entry)
        elif entry[0] > heap[0][0]:
            heapq.heapreplace(heap, entry)

    def best(self) -> list[Candidate]:
        """Those to simulate: no broken rule, the fastest by estimate, some of each kind of recomputation."""
        chosen: dict[int, Candidate] = {}
        ranked = {kind: sorted(heap, key=lambda one: (-one[0], -one[1])) for kind, heap in self._heaps.items()}
        everything = sorted((one for heap in ranked.values() for one in heap), key=lambda one: (-one[0], -one[1]))
        for entries, most in [(everything, SIMULATED), *((heap, SIMULATED // 4) for heap in ranked.values())]:
            num_legal = 0
            for _, number, candidate in entries:
                if num_legal == most:
                    break
                if number in chosen or not broken_rules(candidate.of(self._config), self._world_size):
                    chosen[number] = candidate
                    num_legal += 1
        return list(chosen.values())

    def forecast(self, candidate: Candidate) -> Forecast:
        """By simulation, with every place's memory."""
        work = Work.of(candidate.of(self._config), self._world_size, self._hardware.kernels)
        return forecast(work, self._hardware, self._config.offload)

    def _work_of(self, candidate: Candidate) -> Work | None:
        """None where the batch does not divide among the ranks."""
        layout = Layout.of(candidate.parallelism, self._world_size)
        portion = candidate.micro_batch_size * layout.data_size
        if self._sequences % portion:
            return None
        return replace(
            self._work,
            layout=layout,
            pipeline=candidate.parallelism.pipeline,
            micro_batch_size=candidate.micro_batch_size,
            micro_batches=self._sequences // portion,
            recompute=candidate.recompute,
        )

    def _estimate(self, work: Work) -> float:
        """Seconds: the busiest place's passes, the bubble of its schedule by the usual formula, what sharding adds."""
        stages = self._pieces.stages(work)
        slowest = 0.0
        for place in range(work.layout.pp):
            numbers = stages_on(place, work.layout.pp, work.pipeline) if work.layout.pp > 1 else [0]
            seconds = 0.0
            for number in numbers:
                for kind, count in self._pieces.kinds(work, stages[number]).items():
                    one = self._passes_of(work, kind)
                    seconds += count * (one.whole_forward + one.whole_backward)
            slowest = max(slowest, seconds)
        is_split = work.pipeline.schedule in SPLITS_BACKWARD
        ahead = (work.layout.pp - 1) / work.pipeline.num_stages_per_rank * (_SPLIT_BACKWARD_BUBBLE if is_split else 1)
        return slowest * (work.micro_batches + ahead) + self._sharding_seconds(work, slowest * work.micro_batches)

    def _sharding_seconds(self, work: Work, busy: float) -> float:
        """Of gathers and sums over data parallelism on the first place, what takes longer than computation hides."""
        layout, practice, count = work.layout, work.practice, work.micro_batches
        is_pipelined = layout.pp > 1
        gathers, sums = count + 1 if is_pipelined else 2 * count, 1 if is_pipelined else count
        if layout.sharded == "optimizer":
            gathers, sums = 1, 1
        group = group_on(layout, "shard", self._hardware.ranks_per_node)
        elements = self._pieces.sharded_elements(work, 0)
        gather = seconds_of_call(self._hardware, group, "all_gather", elements * practice.gathered_bytes)
        scatter = seconds_of_call(self._hardware, group, "reduce_scatter", elements * practice.sum_bytes)
        if gathers == 1:
            return max(0.0, gather - busy / count / 3) + max(0.0, scatter - busy / count * 2 / 3)
        if not is_pipelined:
            return max(0.0, gathers * gather + sums * scatter - busy)
        return max(0.0, gathers * gather - busy) + max(0.0, scatter - busy / count * 2 / 3)

    def _passes_of(self, work: Work, kind: Any) -> Passes:
        layout = work.layout
        key = kind, layout.tp, layout.cp, layout.ep, layout.etp, work.micro_batch_size, work.recompute
        if key not in self._passes:
            self._passes[key] = passes_of_stage(work, self._hardware, kind)
        return self._passes[key]


_KEPT = 256
"""Of each kind of recomputation, until rules are applied."""


def _divides(work: Work) -> bool:
    """What is cut is cut evenly, as the arithmetic takes it to be, and micro-batches fill the pipeline."""
    layout, model = work.layout, work.model
    heads = model.attention.num_attention_heads
    keys = getattr(model.attention, "num_key_value_heads", heads)
    sizes = [heads, keys, model.vocab_size, model.feed_forward.intermediate_size or layout.tp]
    experts = getattr(model.feed_forward, "n_routed_experts", 1)
    width = getattr(model.feed_forward, "moe_intermediate_size", 1)
    return (
        not any(size % layout.tp for size in sizes)
        and work.sequence_length % (layout.cp * layout.tp * (2 if layout.cp > 1 else 1)) == 0
        and experts % layout.ep == 0
        and width % layout.etp == 0
        and (layout.pp == 1 or work.micro_batches >= layout.pp)
    )


def why_slower(one: Found, best: Found, most: int = 3) -> str:
    """The parts of a step in which `one` differs most from `best`."""
    mine, its = one.parts, best.parts
    by_size: Sequence[str] = sorted(mine, key=lambda name: -abs(mine[name] - its.get(name, 0.0)))
    differences = [(name, mine[name] - its.get(name, 0.0)) for name in by_size[:most]]
    return ", ".join(f"{name} {1000 * seconds:+,.0f} ms" for name, seconds in differences if abs(seconds) > 5e-4)
