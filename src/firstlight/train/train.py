"""The `train` verb inside one process of the run."""

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.base.world import World
from firstlight.config.schema import RunConfig
from firstlight.layout.mesh import Layout
from firstlight.parallel.device import pick_device
from firstlight.parallel.group import joined
from firstlight.train.assemble import Place, assemble, open_inputs, run_facts
from firstlight.train.loop import Outcome, run
from firstlight.train.run_folder import RunFolder


def train(config: RunConfig, world: World) -> Outcome:
    """Train as one of the ranks of `world`, from where the output folder's checkpoints left off.

    Raises InputError for unusable input, NoCheckpointError when there are checkpoints and none loads.
    """
    inputs = open_inputs(config)
    device = pick_device(world.local_rank, local_size=world.local_size)
    folder = RunFolder(path=config.training.output_folder)
    with joined(world, device) as peers:
        place = Place(world=world, peers=peers, device=device, folder=folder)
        _claim(place, config)
        get_logger().info(
            "%s on %s, precision %s",
            Layout.of(config.parallelism, world.size).describe(),
            device.type,
            config.training.precision,
        )
        parts, state = assemble(config, inputs, place)
        return run(parts, state)


def _claim(place: Place, config: RunConfig) -> None:
    """The first rank claims the folder; when it cannot, all ranks end."""
    failure: InputError | None = None
    if place.world.rank == 0:
        try:
            place.folder.claim(config)
            place.folder.record_facts(run_facts(config, place))
        except InputError as error:
            failure = error
    if not place.peers.all_true(failure is None):
        raise failure or InputError(f"{place.folder.path} cannot be used; see the first rank's message")
