"""A run's model as its newest checkpoint has it, on one process."""

from dataclasses import dataclass
from pathlib import Path

import torch

from firstlight.base.log import get_logger
from firstlight.base.peers import Alone
from firstlight.base.report import EvalReport
from firstlight.checkpoint.checkpointer import load_newest
from firstlight.checkpoint.key import read_key
from firstlight.config.schema import RunConfig
from firstlight.layout.mesh import Layout
from firstlight.models.balancing import BiasBalancing
from firstlight.models.decoder import Decoder
from firstlight.models.family import family_of
from firstlight.parallel.apply import LaidOut, routers
from firstlight.parallel.device import pick_device
from firstlight.parallel.losses import RankSums
from firstlight.train.assemble import build_engine, held_out_masking, open_held_out_sets
from firstlight.train.evaluate import EvaluationPlan, Evaluator, Portion
from firstlight.train.run_folder import RunFolder, open_run
from firstlight.train.state import model_tensors


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """Folder and configuration of a run, its model after `step` steps."""

    folder: RunFolder
    config: RunConfig
    model: Decoder
    step: int


def load_trained(path: Path) -> TrainedRun:
    """Load the model of the run in `path`. Raises InputError when it is no run, NoCheckpointError without weights."""
    folder, config = open_run(path)
    device = pick_device(0, local_size=1)
    with torch.device("meta"):
        model = family_of(config.model).build(config.model)
    model.allocate(device)
    manifest = load_newest(folder.checkpoints, model_tensors(model), read_key(config.checkpoint.key_file))
    get_logger().info("%s: the model after step %d of %d", path, manifest.step, config.training.steps)
    return TrainedRun(folder=folder, config=config, model=model.eval(), step=manifest.step)


def evaluate_trained(run: TrainedRun, *, max_samples: int | None) -> list[EvalReport]:
    """The loss on the run's held-out sets, all of their samples unless `max_samples` is given."""
    sets = open_held_out_sets(run.config)
    engine = build_engine(
        run.config, RankSums(layout=Layout()), LaidOut(stages=[run.model]), BiasBalancing(routers(run.model))
    )
    plan = EvaluationPlan(
        every_steps=0,
        last_step=run.step,
        max_samples=max_samples or max((len(one.dataset) for one in sets), default=0),
        batch_size=run.config.training.micro_batch_size,
        masking=held_out_masking(run.config),
    )
    return Evaluator(engine, sets, plan, Portion(peers=Alone())).run(run.step)
