"""A step of a dry run: the run's own engine and optimizer on tensors without values. Memory and calls, no numbers."""

from dataclasses import dataclass

import numpy as np

from firstlight.config.schema import RunConfig
from firstlight.config.timeline import timeline_of
from firstlight.data.stream import Batch
from firstlight.layout.batch import accumulation_steps
from firstlight.models.balancing import BiasBalancing
from firstlight.optim.kept_moments import local_of
from firstlight.parallel.allocated import Allocated
from firstlight.parallel.apply import routers
from firstlight.parallel.calls import Counted
from firstlight.parallel.engine import Engine
from firstlight.parallel.pretended import PRETENDED, Undecided
from firstlight.train.assemble import build_engine, work_of
from firstlight.train.dry_run import Built, built


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Calls of one kind between the same ranks."""

    kind: str
    ranks: int
    first_rank: int
    calls: int
    num_bytes: int
    """The larger of what a rank gives and takes, added up."""


@dataclass(frozen=True, kw_only=True)
class DryStep:
    """What a rank does in a step. Bytes are of the device's tensors: averages are in the host's memory."""

    rank: int
    micro_batches: int
    in_run: int
    """Micro-batches that the run has; fewer hold as much from a certain number on."""
    before_bytes: int
    """Parameters and moments."""
    most_bytes: int
    """While forward and backward passes run."""
    left_bytes: int
    """What the passes leave beside what was there before: gradients, and what the engine keeps for the next step."""
    most_in_update_bytes: int
    calls: list[Calls]


def dry_step(config: RunConfig, world_size: int, rank: int, micro_batches: int | None = None) -> DryStep:
    """The run's last step on `rank`, with so many micro-batches; None: as many as hold as much as the run's.

    Numbers decide nothing: experts have even shares of rows, norms and losses are one.
    """
    with built(config, world_size, rank) as (run, mode), mode, Undecided():  # type: ignore[no-untyped-call]
        return step_of(config, run, rank, micro_batches)


def step_of(config: RunConfig, run: Built, rank: int, micro_batches: int | None = None) -> DryStep:
    """The step of what is built; so a real rank is measured, too."""
    held = [local_of(one) for stage in run.model.stages for one in (*stage.parameters(), *stage.buffers())]
    held += [local_of(one) for one in run.optimizer.tensors().values() if one.device == PRETENDED]
    last = timeline_of(config).stretches[-1]
    in_run = accumulation_steps(
        global_batch_size=last.batch_size,
        micro_batch_size=config.training.micro_batch_size,
        data_size=run.layout.data_size,
    )
    count = micro_batches or min(in_run, _enough(config, run, in_run))
    memory, counted = Allocated(held), Counted()
    before = memory.now
    with memory, counted:
        engine = _engine(config, run)
        engine.forward_backward(_rows(config, count, last.sequence_length, last.phase))
        most, after, memory.most = memory.most, memory.now, memory.now
        run.optimizer.step()
    return DryStep(
        rank=rank,
        micro_batches=count,
        in_run=in_run,
        before_bytes=before,
        most_bytes=most,
        left_bytes=after - before,
        most_in_update_bytes=memory.most,
        calls=[
            Calls(kind=kind, ranks=len(ranks), first_rank=ranks[0], calls=calls, num_bytes=size)
            for (kind, ranks), (calls, size) in counted.totals().items()
        ],
    )


def _engine(config: RunConfig, run: Built) -> Engine:
    balancing = BiasBalancing(routers(*run.model.stages))
    return build_engine(config, run.model, work_of(config, run.layout, balancing, PRETENDED))


def _enough(config: RunConfig, run: Built, in_run: int) -> int:
    """Without a pipeline the second micro-batch finds all that the first one leaves, and the last one sums up. A
    pipeline is full after as many as it has stages; a schedule with all forward passes first holds all of them."""
    degree, pipeline = run.layout.pp, config.parallelism.pipeline
    if degree == 1:
        return 3
    if pipeline.schedule in ("gpipe", "looped_bfs"):
        return in_run
    return degree * (pipeline.num_stages_per_rank + 1) + in_run % degree


def _rows(config: RunConfig, count: int, length: int, phase: int) -> Batch:
    """Rows of the run's shape, all of which count."""
    rows = count * config.training.micro_batch_size
    tokens = np.zeros((rows, length + 1), dtype=np.int32)
    separates = config.data.train.documents == "separate"
    return Batch(
        tokens=tokens[:, :-1],
        labels=tokens[:, 1:],
        loss_mask=np.ones((rows, length), dtype=np.float32),
        begins=np.zeros((rows, length), dtype=np.bool_) if separates else None,
        samples=rows,
        phase=phase,
    )
