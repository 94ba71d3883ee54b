"""A dry run: one rank of many is built as a run builds it, without the other ranks and without memory."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from firstlight.checkpoint.blocks import NAME_OF_DTYPE, header_of
from firstlight.checkpoint.shards import LocalShard, local_shard
from firstlight.checkpoint.writer import files_of
from firstlight.config.scheduled_numbers import scheduled_numbers
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import sequence_lengths, timeline_of
from firstlight.data.stream import rows_of_rank
from firstlight.layout.memory import RankState
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import Stage
from firstlight.models.family import build_model
from firstlight.optim.averages import Averages
from firstlight.optim.kept_moments import local_of
from firstlight.optim.optimizer import Optimizer, Surroundings
from firstlight.optim.schedule import number_at
from firstlight.parallel.apply import LaidOut, buffer_names, copies_in, lay_out, parameter_names
from firstlight.parallel.arithmetic import Arithmetic
from firstlight.parallel.device import has_fused_adamw
from firstlight.parallel.group import sum_over_ranks
from firstlight.parallel.kernels import Circumstances, Kernels
from firstlight.parallel.pretended import PRETENDED, pretending, spread_rows_evenly, without_memory
from firstlight.train.assemble import keeping_of, stages_of_rank
from firstlight.train.state import model_tensors


@dataclass(frozen=True, kw_only=True)
class Held:
    """A tensor of which this rank has a block: both shapes, where the block begins, and its type as files have it."""

    whole: tuple[int, ...]
    shape: tuple[int, ...]
    offset: tuple[int, ...]
    dtype: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class File:
    """A file of a checkpoint that this rank writes."""

    name: str
    num_bytes: int
    tensors: dict[str, Held]


@dataclass(frozen=True, kw_only=True)
class DryRank:
    """What a rank of a run is."""

    rank: int
    places: dict[str, int]
    """On each axis."""
    stages: list[Stage]
    parameters: dict[str, Held]
    state: RankState
    """Measured on what was built; gradients are as large as the parameters that the rank's optimizer has."""
    files: list[File]
    samples: list[int]
    """Of the first step, by their numbers in the order of the data."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """A rank's part of the model, its optimizer and averages."""

    layout: Layout
    model: LaidOut
    optimizer: Optimizer
    averages: Averages


@contextmanager
def built(config: RunConfig, world_size: int, rank: int) -> Iterator[tuple[Built, FakeTensorMode]]:
    """Rank `rank` of the run of `config`, whose rules hold, for the length of the block, and the mode in which it
    computes. Both must be out of reach behind the block."""
    layout = Layout.of(config.parallelism, world_size)
    arithmetic = Arithmetic.of(config.training.precision, PRETENDED)
    around = Circumstances(device=PRETENDED, longest=max(sequence_lengths(config).values()))
    with pretending(rank, world_size):
        # Meshes are cut out of each other by their ranks' numbers, which tensors without values do not have.
        model = lay_out(
            config.model,
            layout,
            keeping_of(config, layout),
            stages=stages_of_rank(config, layout, rank),
            device=PRETENDED,
            arithmetic=arithmetic,
            build=Kernels.of(config.kernels, config.model, layout, arithmetic, around).in_what(build_model),
        )
        with without_memory() as mode:
            for stage in model.stages:
                stage.allocate(PRETENDED)
                spread_rows_evenly(stage)
            run = with_optimizer(config, layout, model)
        yield run, mode
        del run, model


def with_optimizer(config: RunConfig, layout: Layout, model: LaidOut) -> Built:
    """What a run makes round a model that is laid out."""
    parameters = parameter_names(*model.stages)
    around = Surroundings(
        learning_rate=lambda _step: config.optimizer.learning_rate,
        sum_over_ranks=sum_over_ranks,
        after_update=lambda: None,
        is_fused=has_fused_adamw(PRETENDED),
        copies=copies_in(layout),
        num_heads=config.model.attention.num_attention_heads,
    )
    return Built(
        layout=layout,
        model=model,
        optimizer=Optimizer(parameters, config.optimizer, around),
        averages=Averages(config.averages, parameters, buffer_names(*model.stages), lambda: 0),
    )


def dry_rank(config: RunConfig, world_size: int, rank: int) -> DryRank:
    """Shapes, bytes, files of a checkpoint, and data of a rank; the configuration's rules hold."""
    with built(config, world_size, rank) as (run, _):
        return DryRank(
            rank=rank,
            places=run.layout.coordinates(rank),
            stages=stages_of_rank(config, run.layout, rank),
            parameters={name: _held(tensor) for name, tensor in parameter_names(*run.model.stages).items()},
            state=_state(run),
            files=_files(run, world_size, rank),
            samples=_samples(config, run.layout, rank),
        )


def ranks_of_each_kind(layout: Layout) -> list[int]:
    """Of each place of the pipeline the first rank, and the last one of the whole pipeline's first and last place: they
    write no tensor that is whole on each rank, and where shards are uneven they have the smallest."""
    size = layout.stage_size
    firsts = {place * size for place in range(layout.pp)}
    return sorted(firsts | {size - 1, layout.world_size - 1})


def schedule_table(config: RunConfig) -> dict[str, dict[int, float]]:
    """Scheduled numbers, the size of the batch and the length of sequences, at the first and last step, at quarters,
    and where stretches of steps begin. Steps are counted from 0."""
    timeline = timeline_of(config)
    last = timeline.steps - 1
    begins = [sum(one.steps for one in timeline.stretches[:number]) for number in range(len(timeline.stretches))]
    few = begins if len(begins) <= _MANY else [begins[0], begins[-1]]
    steps = sorted({0, *(last * quarter // 4 for quarter in range(1, 5)), *few})
    table = {
        name: {step: number_at(number, timeline)(step) for step in steps}
        for name, number in scheduled_numbers(config).items()
    }
    table["training.global_batch_size"] = {step: timeline.at(step).batch_size for step in steps}
    table["data.train.sequence_length"] = {step: timeline.at(step).sequence_length for step in steps}
    return table


_MANY = 8
"""Stretches of a run from which on not all of them are shown: a ramp has one for each size."""


def _state(run: Built) -> RankState:
    every = [parameter for stage in run.model.stages for parameter in stage.parameters()]
    return RankState(
        parameters=_bytes_of(every),
        gradients=_bytes_of(parameter_names(*run.model.stages).values()),
        moments=_bytes_of(run.optimizer.tensors().values()),
        averages=_bytes_of(run.averages.tensors().values()),
    )


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(local_of(one).nbytes for one in tensors)


def state_tensors(run: Built) -> dict[str, Tensor]:
    """What checkpoints have, under its names there."""
    moments = {f"optimizer/{name}": moment for name, moment in run.optimizer.tensors().items()}
    return {**model_tensors(*run.model.stages), **moments, **run.averages.tensors()}


def _files(run: Built, world_size: int, rank: int) -> list[File]:
    """As the checkpoint's writer has them."""
    tensors = state_tensors(run)
    is_first = run.layout.is_first_of_stage(rank)
    shards = {name: local_shard(tensor, is_first_rank=is_first) for name, tensor in tensors.items()}
    written = {name: shard for name, shard in shards.items() if shard.is_written}
    found = []
    for file, names in files_of(written, rank=rank, num_ranks=world_size).items():
        header, _ = header_of({key: written[name].data for name, key in names.items()})
        held = {name: _held_block(written[name]) for name in names}
        size = len(header) + sum(one.num_bytes for one in held.values())
        found.append(File(name=file, num_bytes=size, tensors=held))
    return found


def _samples(config: RunConfig, layout: Layout, rank: int) -> list[int]:
    rows: list[int] = rows_of_rank(
        timeline_of(config).at(0).batch_size,
        micro_batch_size=config.training.micro_batch_size,
        data_rank=layout.data_rank(rank),
        data_size=layout.data_size,
    ).tolist()
    return rows


def _held(tensor: Tensor) -> Held:
    return _held_block(local_shard(tensor, is_first_rank=True))


def _held_block(shard: LocalShard) -> Held:
    return Held(
        whole=shard.global_shape,
        shape=tuple(shard.data.shape),
        offset=shard.offset,
        dtype=NAME_OF_DTYPE[shard.data.dtype],
        num_bytes=shard.data.nbytes,
    )
