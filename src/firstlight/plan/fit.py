"""Refuses a run that does not fit, and says what would."""

from collections.abc import Iterator
from dataclasses import replace

from firstlight.base.errors import InputError
from firstlight.config.recompute import FullRecompute, NoRecompute, OffloadConfig, Recompute, SelectiveRecompute
from firstlight.plan.forecast import Forecast
from firstlight.plan.memory import RankMemory, memory_of_places
from firstlight.plan.work import Work


def require_memory(plan: Forecast, offload: OffloadConfig) -> None:
    """Raise InputError where some rank needs more memory than its device has."""
    most = max(plan.memory, key=lambda one: one.total)
    place = plan.memory.index(most)
    room = plan.hardware.memory_bytes.value
    if most.total <= room:
        return
    parts = ", ".join(f"{name} {_gigabytes(size)}" for name, size in vars(most).items() if size)
    usable = list(_what_fits(plan, offload))
    advice = "use " + ", or ".join(usable) if usable else "no recomputation or micro-batch makes it fit: use more ranks"
    raise InputError(
        f"place {place} of the pipeline needs {_gigabytes(most.total)} GB, and a device of {plan.hardware.name} has "
        f"{_gigabytes(room)} GB ({parts} GB); {advice}"
    )


def _what_fits(plan: Forecast, offload: OffloadConfig) -> Iterator[str]:
    """Single changes of the configuration with which every rank fits, the cheapest first."""
    work = plan.work
    kinds: tuple[tuple[str, Recompute], ...] = (
        ("recompute.kind selective", SelectiveRecompute()),
        ("recompute.kind full", FullRecompute()),
    )
    for name, recompute in kinds:
        if isinstance(work.recompute, NoRecompute) or isinstance(recompute, FullRecompute):
            yield from _if_fits(plan, replace(work, recompute=recompute), offload, name)
    if work.micro_batch_size > 1:
        smaller = replace(work, micro_batch_size=1, micro_batches=work.micro_batches * work.micro_batch_size)
        yield from _if_fits(plan, smaller, offload, "training.micro_batch_size 1")
    if work.layout.sharded != "all":
        layout = replace(work.layout, sharded="all")
        yield from _if_fits(plan, replace(work, layout=layout), offload, "parallelism.sharded all")
    away = OffloadConfig(activations=offload.activations, optimizer_state="host")
    yield from _if_fits(plan, work, away, "offload.optimizer_state host")
    yield from _if_fits(
        plan, replace(work, recompute=FullRecompute()), away, "recompute.kind full with offload.optimizer_state host"
    )


def _if_fits(plan: Forecast, work: Work, offload: OffloadConfig, name: str) -> Iterator[str]:
    memory = memory_after(plan, work, offload)
    most = max(one.total for one in memory)
    if most <= plan.hardware.memory_bytes.value:
        yield f"{name} ({_gigabytes(most)} GB)"


def memory_after(plan: Forecast, work: Work, offload: OffloadConfig) -> list[RankMemory]:
    """Of each place, for a changed run."""
    return memory_of_places(work, plan.hardware, work.orders, offload)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.1f}"
