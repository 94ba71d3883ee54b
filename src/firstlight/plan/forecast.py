"""The whole forecast of a run: memory of each place of the pipeline, a step's time and what it goes to."""

from dataclasses import dataclass

from firstlight.config.recompute import OffloadConfig
from firstlight.layout.communication import step_traffic
from firstlight.layout.counts import ParameterCounts, count_parameters, flops_per_token
from firstlight.layout.parameters import elements_of_rank
from firstlight.layout.schedules import Pass, Slot
from firstlight.layout.stages import Stage
from firstlight.layout.traffic import Traffic
from firstlight.plan.hardware import Hardware
from firstlight.plan.links import Group, group_on, seconds_of_call
from firstlight.plan.memory import RankMemory, memory_of_places
from firstlight.plan.passes import Passes, passes_of_stages
from firstlight.plan.simulation import Timeline, ranks_of_stages, simulate
from firstlight.plan.work import Work

_UPDATE_PASSES = 7
"""Over fp32 numbers in an update: parameter, gradient and both moments read, three of them written; the norm aside."""
_DATA_AXES = ("shard", "edp", "dp_replicate")


@dataclass(frozen=True, kw_only=True)
class Flows:
    """Calls of a place of the pipeline in a step that go over one kind of group, and how long they take alone."""

    traffic: Traffic
    group: Group
    seconds: float


@dataclass(frozen=True, kw_only=True)
class StepTime:
    """Seconds of a step."""

    pipeline: float
    """From the first forward to the last backward pass, bubble included."""
    gradients: float
    """Of gathering parameters and summing gradients over data parallelism, what nothing hides."""
    update: float

    @property
    def total(self) -> float:
        return self.pipeline + self.gradients + self.update


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run will need and take."""

    work: Work
    hardware: Hardware
    parameters: ParameterCounts
    flops_causal: float
    """Of a token, forward and backward."""
    flops_full: float
    memory: list[RankMemory]
    passes: list[Passes]
    """Of each stage, for one micro-batch."""
    timeline: Timeline
    step: StepTime
    flows: list[Flows]

    @property
    def tokens_per_second_per_device(self) -> float:
        return self.work.tokens_per_step / self.step.total / self.work.layout.world_size

    @property
    def flops_per_device(self) -> float:
        """Model FLOP/s, attention counted causally."""
        return self.tokens_per_second_per_device * self.flops_causal

    @property
    def mfu(self) -> float:
        """Of the peak in bf16, in fp32 for runs in fp32."""
        peak = self.hardware.peak["fp32" if self.work.practice.precision == "fp32" else "bf16"]
        return self.flops_per_device / peak.value

    @property
    def exposed(self) -> dict[str, float]:
        """Seconds of a step in which the slowest rank waits, by what for."""
        busiest = max(range(len(self.timeline.busy)), key=lambda rank: self.timeline.busy[rank])
        here = [self.passes[index] for index in self.work.places_of(busiest)]
        count = self.work.micro_batches
        return {
            "bubble": self.step.pipeline - self.timeline.busy[busiest],
            "tensor and context groups": count * sum(one.forward_transfers + one.backward_transfers for one in here),
            "experts": self._exposed_exchange(here),
            "gradients and parameters": self.step.gradients,
        }

    def _exposed_exchange(self, here: list[Passes]) -> float:
        if self.work.practice.hides_experts == "paired":
            return 0.0
        return self.work.micro_batches * sum(one.forward_exchange + one.backward_exchange for one in here)


def forecast(work: Work, hardware: Hardware, offload: OffloadConfig | None = None) -> Forecast:
    """All of it."""
    stages = work.stages
    passes = passes_of_stages(work, hardware)
    timeline = _timeline(work, hardware, passes)
    memory = memory_of_places(work, hardware, work.orders, offload or OffloadConfig())
    here = [stages[index] for index in work.places_of(0)]
    flows = _flows(work, hardware, here)
    return Forecast(
        work=work,
        hardware=hardware,
        parameters=count_parameters(work.model),
        flops_causal=flops_per_token(work.model, work.sequence_length),
        flops_full=flops_per_token(work.model, work.sequence_length, "full"),
        memory=memory,
        passes=passes,
        timeline=timeline,
        step=StepTime(
            pipeline=timeline.seconds,
            gradients=_gradient_seconds(work, flows, timeline, passes),
            update=_update_seconds(work, hardware, here),
        ),
        flows=flows,
    )


def _timeline(work: Work, hardware: Hardware, passes: list[Passes]) -> Timeline:
    ranks = ranks_of_stages(work.pipeline, work.layout.pp)
    group = group_on(work.layout, "pp", hardware.ranks_per_node)
    wide = work.portion.positions // work.layout.tp * work.model.hidden_size * work.practice.number_bytes
    hop = seconds_of_call(hardware, group, "send", wide)
    return simulate(
        work.pipeline,
        work.layout.pp,
        work.micro_batches,
        lambda slot: seconds_of_slot(work, hardware, passes, slot),
        lambda one, other: 0.0 if ranks[one] == ranks[other] else hop,
    )


def seconds_of_slot(work: Work, hardware: Hardware, passes: list[Passes], slot: Slot) -> float:
    """Of an action; of a pair, what is computed or what travels, whatever takes longer."""
    if len(slot) == 2 and work.practice.hides_experts == "paired":
        forward, backward = passes[slot[0].stage], passes[slot[1].stage]
        exchange = forward.forward_exchange + backward.backward_exchange
        computed = forward.whole_forward - forward.forward_exchange + backward.whole_backward
        computed -= backward.backward_exchange
        return max(computed * (1 + hardware.communication_share.value), exchange)
    if work.practice.hides_experts == "paired" and work.pipeline.schedule != "dualpipe_v":
        return sum(_seconds_in_turn(hardware, passes[action.stage], action.kind) for action in slot)
    return sum(_seconds_alone(passes[action.stage], action.kind) for action in slot)


def _seconds_alone(one: Passes, kind: Pass) -> float:
    return {"F": one.whole_forward, "B": one.whole_backward, "I": one.whole_input, "W": one.weight}[kind]


def _seconds_in_turn(hardware: Hardware, one: Passes, kind: Pass) -> float:
    """A pass whose rows travel beside the products of the pass of the other direction that is computed in turn with
    it: both directions take as long as their products together, or as their transfers."""
    exchange = one.forward_exchange + one.backward_exchange
    computed = (one.whole_forward + one.whole_backward - exchange) * (1 + hardware.communication_share.value)
    slower = max(computed, exchange) / (one.whole_forward + one.whole_backward - exchange) if computed else 1.0
    hidden = {"F": one.forward_exchange, "B": one.backward_exchange, "I": one.backward_exchange, "W": 0.0}[kind]
    return slower * (_seconds_alone(one, kind) - hidden)


def _flows(work: Work, hardware: Hardware, stages: list[Stage]) -> list[Flows]:
    here = stages if work.layout.pp > 1 else ()
    calls, gathers = (
        step_traffic(work.model, work.layout, step, here, work.repeated) for step in (work.step, work.gathers)
    )
    calls = [other if one.what.endswith("gathered") else one for one, other in zip(calls, gathers, strict=True)]
    found = []
    for one in calls:
        group = group_on(work.layout, one.axis, hardware.ranks_per_node)
        seconds = one.calls * seconds_of_call(hardware, group, one.kind, one.bytes / one.calls)
        found.append(Flows(traffic=one, group=group, seconds=seconds))
    return found


def _gradient_seconds(work: Work, flows: list[Flows], timeline: Timeline, passes: list[Passes]) -> float:
    """Parameters and gradients travel beside computation: each micro-batch's beside its own passes, or where they
    travel once a step, gathers beside the first forward and sums beside the last backward pass."""
    gathers = sum(one.seconds for one in flows if one.traffic.axis in _DATA_AXES and one.traffic.kind == "all_gather")
    sums = sum(one.seconds for one in flows if one.traffic.axis in _DATA_AXES and one.traffic.kind != "all_gather")
    here = [passes[index] for index in work.places_of(0)]
    forward, backward = sum(one.forward for one in here), sum(one.input + one.weight for one in here)
    first = (gathers + sums) / (work.micro_batches * max(1, work.model.num_hidden_layers))
    if work.layout.sharded != "all":
        return max(0.0, gathers - forward) + max(0.0, sums - backward)
    if work.layout.pp == 1:
        return max(0.0, gathers + sums - timeline.busy[0]) + first
    return max(0.0, gathers - timeline.busy[0]) + max(0.0, sums - backward) + first


def _update_seconds(work: Work, hardware: Hardware, stages: list[Stage]) -> float:
    own = elements_of_rank(work.model, work.layout, 0, stages if work.layout.pp > 1 else ()).own
    return _UPDATE_PASSES * 4 * own / (hardware.memory_bandwidth.value * hardware.efficiency.memory.value)
