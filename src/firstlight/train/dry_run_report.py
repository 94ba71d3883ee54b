"""A dry run as text."""

from collections.abc import Iterable, Iterator, Mapping

from firstlight.layout.stages import Stage
from firstlight.train.dry_run import DryRank
from firstlight.train.dry_step import DryStep


def rank_lines(one: DryRank) -> Iterator[str]:
    """Of what a rank is."""
    places = ", ".join(f"{axis} {place}" for axis, place in one.places.items() if axis in _SHOWN)
    yield f"rank {one.rank}: {places}"
    yield f"  layers {'; '.join(map(_layers, one.stages))}"
    state = ", ".join(f"{name} {_gigabytes(size)}" for name, size in vars(one.state).items() if size)
    yield f"  GB of its shards: {state}; {len(one.parameters)} parameters"
    yield f"  samples of the first step: {_shown(one.samples)}"
    if not one.files:
        yield "  writes no file of a checkpoint"
    for file in one.files:
        yield f"  writes {file.name}: {len(file.tensors)} tensors, {file.num_bytes:,} bytes"


def step_lines(one: DryStep) -> Iterator[str]:
    """Of what a rank does in a step."""
    of_run = f" of {one.in_run}" if one.in_run != one.micro_batches else ""
    yield f"  a step with {one.micro_batches}{of_run} micro-batches; losses mean nothing without values"
    yield (
        f"  GB: {_gigabytes(one.before_bytes)} before, at most {_gigabytes(one.most_bytes)} in the passes, "
        f"{_gigabytes(one.left_bytes)} left by them, at most {_gigabytes(one.most_in_update_bytes)} in the update"
    )
    for calls in sorted(one.calls, key=lambda each: -each.num_bytes):
        yield f"  {calls.kind:<16}{calls.ranks:>6} ranks{calls.calls:>9,} calls{_gigabytes(calls.num_bytes):>12} GB"


def schedule_lines(table: Mapping[str, Mapping[int, float]]) -> Iterator[str]:
    """Scheduled numbers, by step."""
    for name, values in table.items():
        if len(set(values.values())) == 1:
            yield f"{name}: {next(iter(values.values())):g}"
        else:
            yield f"{name}: " + ", ".join(f"step {step} {value:.4g}" for step, value in values.items())


_SHOWN = ("pp", "dp_replicate", "dp_shard", "cp", "tp", "ep", "etp")


def _layers(stage: Stage) -> str:
    ends = ["embedding"] if stage.is_first else []
    ends += [f"{stage.layers[0]} to {stage.layers[-1]}"] if len(stage.layers) else ["none"]
    ends += ["head"] if stage.is_last else []
    return f"{', '.join(ends)} (stage {stage.index} of {stage.count})"


def _shown(samples: Iterable[int]) -> str:
    first = list(samples)
    return ", ".join(map(str, first[:4])) + (f" ... {first[-1]} ({len(first)} in all)" if len(first) > 4 else "")


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:,.3g}"
