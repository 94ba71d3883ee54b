"""The rules of phases, and what their batches are."""

from collections.abc import Iterator

from firstlight.config.batch import batch_of
from firstlight.config.broken import Broken
from firstlight.config.schema import RunConfig
from firstlight.config.source import KeyPath
from firstlight.config.timeline import sequence_lengths, timeline_of


def key_path(key: str) -> KeyPath:
    """The path of a key as messages write it."""
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))


def final_batches(config: RunConfig) -> list[int]:
    """Sequences of a step after the ramp, for each sequence length of the run."""
    batch = batch_of(config.training.global_batch_size)
    return sorted({batch.sequences(batch.final, length) for length in sequence_lengths(config).values()})


def phases_follow_each_other(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """Each phase has a step of its own, those after the end of the run aside."""
    met = {stretch.phase for stretch in timeline_of(config).stretches}
    for number in sorted(set(range(max(met))) - met):
        # Phase 0 is the one before `phases.0`.
        yield Broken(
            path=("phases", number, "begins_at"),
            message=f"phases.{number} begins where {f'phases.{number - 1}' if number else 'the run'} does; "
            "give each a later begin than the one before",
        )


def weights_fit_the_sources(config: RunConfig, _world_size: int) -> Iterator[Broken]:
    """A phase has a weight for each source, and one of them gives something."""
    sources = config.data.train.sources
    for number, phase in enumerate(config.phases):
        if phase.weights is not None and (len(phase.weights) != len(sources) or not sum(phase.weights) > 0):
            yield Broken(
                path=("phases", number, "weights"),
                message=f"phases.{number}.weights = {list(phase.weights)}; give one for each of the {len(sources)} "
                "sources of data.train, not all 0",
            )


PHASE_RULES = (phases_follow_each_other, weights_fit_the_sources)
