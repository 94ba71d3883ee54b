"""The `train` verb inside one process of the run."""

from collections.abc import Collection, Mapping
from contextlib import closing

from firstlight.base.allocator import keep_freed_memory
from firstlight.base.errors import EXIT_PREEMPTED
from firstlight.base.failure import failures_reported
from firstlight.base.log import get_logger
from firstlight.base.peers import together
from firstlight.base.world import World
from firstlight.checkpoint.key import read_key
from firstlight.checkpoint.lock import FolderLock
from firstlight.checkpoint.object_store import fetch_newer, open_store
from firstlight.config.precision import parameter_type
from firstlight.config.schema import RunConfig
from firstlight.layout.experts import ExpertGroups
from firstlight.layout.mesh import Layout
from firstlight.models.registered import Registered
from firstlight.observe.events import EVENTS_FILE, EventLog
from firstlight.parallel.arithmetic import Arithmetic
from firstlight.parallel.device import pick_device
from firstlight.parallel.group import joined
from firstlight.resilience.agreement import require_same
from firstlight.train.assemble import assemble, open_inputs
from firstlight.train.collection import set_aside
from firstlight.train.loop import Outcome, Parts, run
from firstlight.train.place import Place
from firstlight.train.run_facts import run_facts
from firstlight.train.run_folder import RunFolder
from firstlight.train.start_checks import require_space, what_ranks_share
from firstlight.train.state import TrainState


def train(
    config: RunConfig,
    world: World,
    accepted: Collection[str] = (),
    *,
    beside: Mapping[str, str] | None = None,
    own_model: Registered | None = None,
) -> Outcome:
    """Train as one of the ranks of `world`, from where the output folder's checkpoints left off.

    `accepted` names changes to the inputs of an earlier part of the run that are let pass and recorded; `beside` are
    texts by the names of files, to be kept beside the configuration; `own_model` is a model class of the user's own.

    Raises InputError for unusable input, NoCheckpointError when there are checkpoints and none loads,
    FolderInUseError when another process trains there.
    """
    device = pick_device(world.local_rank, local_size=world.local_size)
    if device.type == "cpu" and keep_freed_memory():
        get_logger().info("the allocator keeps the memory that a step frees for the next one")
    folder = RunFolder(path=config.training.output_folder)
    job, started = ("", 0) if world.node is None else (world.node.job, world.node.round)
    with (
        FolderLock(folder.path, job=job, round=started) as lock,
        joined(world, device, also_alone=parameter_type(config.training.precision) != "fp32") as peers,
        failures_reported(world, logs=folder.logs),
    ):
        place = Place(
            world=world,
            peers=peers,
            device=device,
            folder=folder,
            lock=lock,
            accepted=frozenset(accepted),
            own_model=own_model,
            events=EventLog(folder.path / EVENTS_FILE if world.rank == 0 else None),
        )
        return _train_together(config, place, beside or {})


def _train_together(config: RunConfig, place: Place, beside: Mapping[str, str]) -> Outcome:
    """A function of its own, so that model and optimizer are gone before the ranks part."""
    inputs = together(place.peers, lambda: open_inputs(config))
    code = "" if place.own_model is None else place.own_model.sha256
    facts = what_ranks_share(config, inputs.train_fingerprint, code)
    together(place.peers, lambda: require_same(place.peers, facts))
    together(place.peers, lambda: _claim(place, config, inputs.train_fingerprint, beside))
    _show_layout(config, place)
    parts, state = assemble(config, inputs, place)
    with closing(state.data):
        outcome = _observed(parts, state, place)
    if outcome.exit_code in (0, EXIT_PREEMPTED) and parts.snapshots is not None:
        parts.snapshots.remove()  # the disk has the last state
    if outcome.step > outcome.first_step:
        place.events.add("stop", outcome.step, outcome.reason, {"exit_code": outcome.exit_code})
    return outcome


def _observed(parts: Parts, state: TrainState, place: Place) -> Outcome:
    """What ends the run is an event too."""
    try:
        with set_aside():
            return run(parts, state)
    except Exception as error:
        place.events.add("fault", state.step, f"{type(error).__name__}: {error}")
        raise


def _show_layout(config: RunConfig, place: Place) -> None:
    layout = Layout.of(config.parallelism, place.world.size)
    groups = ExpertGroups.of(config.model, layout, place.world.local_size)
    lines = [layout.describe(), *([] if groups is None else [groups.describe(layout.expert_ranks)])]
    precision = config.training.precision
    shown = [precision.kind, Arithmetic.of(precision, place.device).describe()]
    get_logger().info("%s, precision %s; %s", place.device.type, ", ".join(filter(None, shown)), "\n".join(lines))


def _claim(place: Place, config: RunConfig, data_fingerprint: str, beside: Mapping[str, str]) -> None:
    """The first rank makes the output folder this run's own."""
    if place.world.rank == 0:
        place.lock.acquire()
        place.folder.claim(config, place.accepted, code=None if place.own_model is None else place.own_model.sha256)
        place.folder.keep(beside)
        require_space(config, place.folder.path)
        place.folder.record_facts(run_facts(config, place, data_fingerprint))
        if config.checkpoint.copy_to is not None:
            store, key = open_store(config.checkpoint.copy_to), read_key(config.checkpoint.key_file)
            fetch_newer(store, place.folder.checkpoints, key)
