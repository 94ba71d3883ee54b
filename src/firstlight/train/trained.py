"""A run's model as its newest checkpoint has it, on one process."""

from dataclasses import dataclass
from pathlib import Path

import torch

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.base.peers import Alone
from firstlight.base.report import EvalReport
from firstlight.checkpoint.checkpointer import load_newest
from firstlight.checkpoint.key import read_key
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import model_after, timeline_of
from firstlight.layout.mesh import Layout
from firstlight.models.balancing import BiasBalancing
from firstlight.models.decoder import Decoder
from firstlight.models.family import build_model
from firstlight.models.registered import Registered
from firstlight.parallel.apply import LaidOut, routers
from firstlight.parallel.device import pick_device
from firstlight.train.assemble import build_engine, held_out_blends, held_out_masking, open_held_out_sets, work_of
from firstlight.train.evaluate import EvaluationPlan, Evaluator, Portion
from firstlight.train.run_folder import RunFolder, open_run
from firstlight.train.state import Weights, model_tensors


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """Folder and configuration of a run, its model after `step` steps, attending as the last of them did."""

    folder: RunFolder
    config: RunConfig
    model: Decoder
    step: int

    @property
    def sequence_length(self) -> int:
        """What the last step was trained on."""
        return timeline_of(self.config).at(max(0, self.step - 1)).sequence_length


def load_trained(path: Path, weights: Weights = "model", own_model: Registered | None = None) -> TrainedRun:
    """Load the model of the run in `path`. Raises InputError when it is no run, has no such weights, or was trained
    with another model class than `own_model`, NoCheckpointError without a checkpoint."""
    folder, config = open_run(path)
    require_code(folder, None if own_model is None else own_model.sha256)
    require_weights(path, config, weights)
    device = pick_device(0, local_size=1)
    with torch.device("meta"):
        model = (build_model if own_model is None else own_model.build)(config.model, None)
    model.allocate(device)
    tensors = model_tensors(model, weights=weights)
    manifest = load_newest(folder.checkpoints, tensors, read_key(config.checkpoint.key_file))
    get_logger().info("%s: the model after step %d of %d", path, manifest.step, config.training.steps)
    model.attend_as(model_after(config, manifest.step).attention)
    return TrainedRun(folder=folder, config=config, model=model.eval(), step=manifest.step)


def require_code(folder: RunFolder, code: str | None) -> None:
    """Raise InputError when the run was trained with another model class than the one of this digest; None is the
    family's."""
    there = folder.registered_code
    if there != code:
        what = "the family's own model" if there is None else f"a model class of the user's own (sha256 {there})"
        how = "leave --register-path out" if there is None else "name the folder with its code with --register-path"
        raise InputError(f"{folder.path} was trained with {what}; {how}")


def require_weights(path: Path, config: RunConfig, weights: Weights) -> None:
    """Raise InputError when the run in `path` keeps none of these."""
    if weights == "ema" and config.averages.ema is None:
        raise InputError(f"{path} has no moving average: its averages.ema is null; use --weights model")


def evaluate_trained(run: TrainedRun, *, max_samples: int | None) -> list[EvalReport]:
    """The loss on the run's held-out sets, all of their samples unless `max_samples` is given."""
    sets = open_held_out_sets(run.config)
    device = next(run.model.parameters()).device
    work = work_of(run.config, Layout(), BiasBalancing(routers(run.model)), device)
    engine = build_engine(run.config, LaidOut(stages=[run.model]), work)
    plan = EvaluationPlan(
        every_steps=0,
        last_step=run.step,
        max_samples=max_samples or max((len(dataset) for one in sets for dataset in one.datasets), default=0),
        batch_size=run.config.training.micro_batch_size,
        masking=held_out_masking(run.config),
        timeline=timeline_of(run.config),
        blends=held_out_blends(run.config),
    )
    return Evaluator(engine, sets, plan, Portion(peers=Alone())).run(run.step)
