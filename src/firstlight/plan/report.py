"""A forecast as text and as plain values for JSON."""

from collections import Counter
from collections.abc import Iterable, Sequence
from textwrap import wrap
from typing import Any

from firstlight.plan.cost import Cost
from firstlight.plan.forecast import Flows, Forecast
from firstlight.plan.memory import RankMemory

_COLUMNS = 120


def as_values(plan: Forecast, cost: Cost) -> dict[str, Any]:
    """Everything, with units in the names: bytes, seconds."""
    return {
        "hardware": plan.hardware.name,
        "guesses": guesses(plan),
        "world_size": plan.work.layout.world_size,
        "axes": {axis: degree for axis, degree in plan.work.layout.degrees().items() if degree > 1},
        "parameters": vars(plan.parameters),
        "flops_per_token": {"causal": plan.flops_causal, "full": plan.flops_full},
        "memory_bytes": [{**vars(one), "total": one.total} for one in plan.memory],
        "device_memory_bytes": plan.hardware.memory_bytes.value,
        "step_seconds": {**vars(plan.step), "total": plan.step.total},
        "bubble": plan.timeline.bubble,
        "waited_seconds": plan.exposed,
        "communication": [
            {**vars(one.traffic), "ranks": one.group.size, "link": link_of(one), "seconds": one.seconds}
            for one in plan.flows
        ],
        "tokens_per_second_per_device": plan.tokens_per_second_per_device,
        "flops_per_second_per_device": plan.flops_per_device,
        "mfu": plan.mfu,
        "cost": {**vars(cost), "days": cost.days},
    }


def as_text(plan: Forecast, cost: Cost) -> str:
    """For people."""
    work, hardware = plan.work, plan.hardware
    lines = [
        *work.layout.describe().splitlines(),
        f"{work.tokens_per_step:,} tokens a step in {work.micro_batches} micro-batch(es) of each rank",
        f"parameters {plan.parameters.total:,}, of which a token passes {plan.parameters.activated:,}",
        f"FLOPs of a token: {plan.flops_causal:.4g} with causal attention, {plan.flops_full:.4g} with full",
        "",
        f"memory in GB, of {_gigabytes(hardware.memory_bytes.value)} on {hardware.name}",
        *memory_table(plan.memory),
        "",
        "a step",
        *_step_lines(plan),
        "",
        "communication of the first rank in a step",
        *_communication_lines(plan.flows),
        "",
        *_cost_lines(plan, cost),
        "",
        *wrap(f"guesses in the profile: {', '.join(guesses(plan)) or 'none'}", width=_COLUMNS),
        *(f"warning: {one}" for one in warnings(plan)),
    ]
    return "\n".join(lines)


def memory_table(memory: Sequence[RankMemory]) -> list[str]:
    """Places of the pipeline with the least, the most, the first and the last, by what bytes are for."""
    totals = [one.total for one in memory]
    chosen = {
        "first": 0,
        "most": totals.index(max(totals)),
        "least": totals.index(min(totals)),
        "last": len(memory) - 1,
    }
    if len(memory) == 1:
        chosen = {"every rank": 0}
    heads = [f"{name} ({place})" if len(memory) > 1 else name for name, place in chosen.items()]
    rows = [[name, *(_gigabytes(vars(memory[place])[name]) for place in chosen.values())] for name in vars(memory[0])]
    rows.append(["total", *(_gigabytes(memory[place].total) for place in chosen.values())])
    return _aligned([["", *heads], *rows])


def _step_lines(plan: Forecast) -> list[str]:
    step = plan.step
    rows = [
        ["pipeline", _seconds(step.pipeline), f"bubble {100 * plan.timeline.bubble:.1f} %"],
        ["gradients and parameters", _seconds(step.gradients), "that nothing hides"],
        ["update", _seconds(step.update), ""],
        ["total", _seconds(step.total), f"{plan.tokens_per_second_per_device:,.0f} tokens/s on each device"],
    ]
    waited = ", ".join(f"{name} {_seconds(value)}" for name, value in plan.exposed.items() if value > 0)
    return [
        *_aligned(rows),
        f"  the busiest rank waits for: {waited or 'nothing'}",
        f"  {_rounded(plan.flops_per_device / 1e12)} TFLOP/s on each device, "
        f"MFU {100 * plan.mfu:.1f} % (causal attention)",
    ]


def _communication_lines(flows: Sequence[Flows]) -> list[str]:
    sizes: Counter[tuple[str, str, int, str]] = Counter()
    calls: Counter[tuple[str, str, int, str]] = Counter()
    seconds: Counter[tuple[str, str, int, str]] = Counter()
    for one in flows:
        key = one.traffic.what, one.traffic.axis, one.group.size, link_of(one)
        sizes[key] += one.traffic.bytes
        calls[key] += one.traffic.calls
        seconds[key] += one.seconds  # type: ignore[assignment]  # a counter adds up fractions, too
    rows = [["", "axis", "ranks", "link", "calls", "GB", "alone"]]
    for key in sorted(sizes, key=lambda one: -seconds[one]):
        what, axis, ranks, link = key
        rows.append([what, axis, f"{ranks:,}", link, f"{calls[key]:,}", _gigabytes(sizes[key]), _seconds(seconds[key])])
    return _aligned(rows) if len(rows) > 1 else ["  none"]


def _cost_lines(plan: Forecast, cost: Cost) -> list[str]:
    return [
        f"{_rounded(cost.tokens / 1e9)} billion tokens: {_rounded(cost.days)} days, "
        f"{_rounded(cost.device_hours)} device-hours, "
        f"${_rounded(cost.price)} at ${plan.hardware.price_per_hour.value:g}",
        f"  {cost.failures_per_day:.2g} failures a day; saving every {cost.save_every_seconds:,.0f} s, "
        f"{100 * cost.effective:.1f} % of the time goes into steps that count",
    ]


def guesses(plan: Forecast) -> list[str]:
    """The numbers of the profile that nobody has published or measured."""
    return [name for name, figure in plan.hardware.figures().items() if figure.basis == "guess"]


def warnings(plan: Forecast) -> list[str]:
    """What is legal and probably not meant."""
    layout, per_node = plan.work.layout, plan.hardware.ranks_per_node
    found = []
    for axis, name in (("tp", "tensor_parallel"), ("etp", "expert_tensor_parallel")):
        degree = layout.degrees()[axis]
        if degree > 1 and (degree > per_node or per_node % degree):
            found.append(f"parallelism.{name} = {degree} leaves nodes of {per_node} devices")
    if layout.pp > 1 and plan.work.micro_batches < 4 * layout.pp:
        found.append(
            f"{plan.work.micro_batches} micro-batches for {layout.pp} ranks of a pipeline: the bubble is "
            f"{100 * plan.timeline.bubble:.0f} %"
        )
    return found


def link_of(one: Flows) -> str:
    """Within nodes, or between them."""
    return "node" if one.group.is_within_node else "cluster"


def _aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns: the first to the left, the others to the right, where they are numbers."""
    table = [list(row) for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.2f}"


def _seconds(value: float) -> str:
    return f"{value:,.2f} s" if value >= 1 else f"{1000 * value:,.1f} ms"


def _rounded(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
