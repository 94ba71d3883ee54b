"""What watches a run besides its guard: rehearsed faults, checks of the numbers, and the pace of the ranks."""

from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.config.schema import RunConfig
from firstlight.layout.mesh import Layout
from firstlight.models.family import units_of
from firstlight.parallel.apply import LaidOut, copies_in, parameter_names
from firstlight.parallel.engine import Engine
from firstlight.parallel.layer_clock import LayerClock
from firstlight.parallel.probe import Finiteness, Probe
from firstlight.resilience.stragglers import Stragglers
from firstlight.train.checks import Checks
from firstlight.train.not_finite import NotFinite
from firstlight.train.pace import Pace
from firstlight.train.place import Place
from firstlight.train.planted_faults import PlantedFaults
from firstlight.train.replay import Replay
from firstlight.train.replicas import ReplicaCheck


def faults_of(config: RunConfig, place: Place, model: LaidOut) -> PlantedFaults:
    """Those that the configuration rehearses."""
    return PlantedFaults(
        config.resilience.inject,
        list(parameter_names(*model.stages).values()),
        layer=units_of(model.stages[0])[0],
        rank=place.world.rank,
        marks=place.folder.planted_faults,
    )


def checks_of(
    config: RunConfig, layout: Layout, place: Place, engine: Engine, model: LaidOut, kept: Checkpointer
) -> Checks:
    """Comparisons of replicas, and replays of steps, where they are asked for."""
    resilience, peers = config.resilience, place.peers
    replicas = replay = None
    if resilience.check_replicas_every_steps and layout.world_size > 1:
        replicas = ReplicaCheck(copies_in(layout), peers, place.device)
    if resilience.replay_every_steps:
        num_rows = config.training.micro_batch_size if layout.pp == 1 else None
        replay = Replay(engine, Probe(stages=model.stages), peers, num_rows=num_rows)
    return Checks(resilience, place, replicas=replicas, replay=replay, trust=kept.trust)


def not_finite_of(config: RunConfig, place: Place, engine: Engine, model: LaidOut) -> NotFinite:
    """What finds the source of numbers that are not finite."""
    probe = Probe(stages=model.stages, digests=Finiteness())
    return NotFinite(engine=engine, probe=probe, peers=place.peers, micro_batch_size=config.training.micro_batch_size)


def pace_of(config: RunConfig, layout: Layout, place: Place, model: LaidOut) -> Pace:
    """Who is slow, where there are others to compare with."""
    ratio, ranks = config.resilience.slow_rank_ratio, range(layout.world_size)
    is_wanted = ratio is not None and layout.world_size > 1
    clock = LayerClock(stages=model.stages, device=place.device) if is_wanted else None
    return Pace(clock, Stragglers(ratio or 0, [layout.coordinates(rank)["pp"] for rank in ranks]), place)
