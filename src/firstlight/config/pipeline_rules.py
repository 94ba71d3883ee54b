"""The rules of a pipeline: its stages, their layers, and the micro-batches that fill it."""

from collections.abc import Iterator

from firstlight.config.broken import Broken
from firstlight.config.phase_rules import final_batches
from firstlight.config.pipeline import STAGES_PER_RANK, BalancedSplit, GivenSplit, OffsetSplit
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import timeline_of


def schedule_has_the_stages(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Each schedule works with so many stages on a rank."""
    pipeline = config.parallelism.pipeline
    fewest, most = STAGES_PER_RANK[pipeline.schedule]
    stages = pipeline.num_stages_per_rank
    if stages < fewest or (most is not None and stages > most):
        usable = f"{fewest}" if most == fewest else f"{fewest} or more"
        yield Broken(
            path=("parallelism", "pipeline", "stages_per_rank"),
            message=f"parallelism.pipeline.stages_per_rank = {stages} does not go with schedule = "
            f"{pipeline.schedule}; use {usable}",
        )


def layers_fill_the_stages(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Every layer is on one stage, and every stage but the last, which has the head, has a layer."""
    parallelism, layers = config.parallelism, config.model.num_hidden_layers
    degree, pipeline = parallelism.pipeline_parallel, parallelism.pipeline
    if degree == 1:
        return
    count = degree * pipeline.num_stages_per_rank
    if layers < count - 1:
        yield Broken(
            path=("parallelism", "pipeline_parallel"),
            message=f"parallelism.pipeline_parallel = {degree} x {pipeline.num_stages_per_rank} stages of a rank are "
            f"{count} stages for model.num_hidden_layers = {layers}; use at most {layers + 1} stages",
        )
    match pipeline.split:
        case GivenSplit(layers=given):
            yield from _split_is_whole("layers", given, list(given), count, layers)
        case OffsetSplit(offsets=offsets):
            sizes = [layers // count + offset for offset in offsets]
            yield from _split_is_whole("offsets", offsets, sizes, count, layers)
        case BalancedSplit():
            pass


def _split_is_whole(key: str, given: tuple[int, ...], sizes: list[int], count: int, layers: int) -> Iterator[Broken]:
    shown = f"parallelism.pipeline.split.{key} = {list(given)}"
    path = ("parallelism", "pipeline", "split")
    if len(sizes) != count:
        yield Broken(path=path, message=f"{shown} is for {len(sizes)} stages, and there are {count}; give {count}")
    elif sum(sizes) != layers:
        yield Broken(
            path=path,
            message=f"{shown} gives {sum(sizes)} layers to {count} stages, and model.num_hidden_layers = {layers}; "
            f"make {layers - sum(sizes):+d} of them",
        )
    elif min(sizes[:-1]) < 1 or sizes[-1] < 0:
        yield Broken(
            path=path, message=f"{shown} leaves stages with {sizes} layers; every stage but the last needs 1 or more"
        )


def micro_batches_fill_the_pipeline(config: RunConfig, world_size: int) -> Iterator[Broken]:
    """A schedule works in rounds of micro-batches, and all of them have one shape."""
    parallelism, training = config.parallelism, config.training
    data_size = world_size * parallelism.data_parallel_replicate // parallelism.fixed_size
    portion = training.micro_batch_size * data_size
    if parallelism.pipeline_parallel == 1 or not portion:
        return
    for size in sorted({one.batch_size for one in timeline_of(config).stretches}):
        if size % portion == 0:
            yield from _rounds_are_whole(config, size, portion)
        elif size not in final_batches(config):
            yield Broken(
                path=("training", "global_batch_size"),
                message=f"training.global_batch_size ramps over {size} sequences, which is not a multiple of "
                f"micro_batch_size = {training.micro_batch_size} x {data_size} data-parallel ranks = {portion}, as "
                "a pipeline needs it; give ramp.start and ramp.increment as such multiples",
            )


def _rounds_are_whole(config: RunConfig, size: int, portion: int) -> Iterator[Broken]:
    degree, pipeline = config.parallelism.pipeline_parallel, config.parallelism.pipeline
    count = size // portion
    stages = degree * pipeline.num_stages_per_rank
    rounds = max(1, count // degree)
    usable = None
    if pipeline.schedule == "1f1b" and count < degree:
        usable = f"{degree} or more"
    elif pipeline.schedule == "dualpipe_v" and count < stages:
        usable = f"{stages} or more"
    elif pipeline.schedule in ("interleaved_1f1b", "interleaved_zero_bubble") and count % rounds:
        usable = f"a multiple of {degree}"
    if usable is not None:
        yield Broken(
            path=("training", "global_batch_size"),
            message=f"training.global_batch_size = {size} makes {count} micro-batches for each "
            f"data-parallel rank, too few or no whole rounds for parallelism.pipeline.schedule = {pipeline.schedule} "
            f"over pipeline_parallel = {degree}; use {usable} micro-batches (of {portion} sequences each)",
        )


PIPELINE_RULES = (schedule_has_the_stages, layers_fill_the_stages, micro_batches_fill_the_pipeline)
