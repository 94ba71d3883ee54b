"""One rank of chains of runs: what it restored, what it saved, and the steps after both, written to files.

Run as `python -m tests.resume.rank FOLDER RANK WORLD_SIZE CHAINS`, in the folder of the run; CHAINS is a name in legs.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch._C._distributed_c10d import FileStore

from firstlight.base.report import LossReport
from firstlight.base.world import World
from firstlight.checkpoint.lock import FolderLock
from firstlight.checkpoint.shards import local_shard
from firstlight.cli.model import read_model
from firstlight.config.load import load
from firstlight.config.schema import RunConfig
from firstlight.data.samples import Dataset, read_samples
from firstlight.launch.parent import die_with
from firstlight.layout.mesh import Layout
from firstlight.parallel.engine import Engine
from firstlight.parallel.group import joined
from firstlight.parallel.rows import HostBatch
from firstlight.train.assemble import assemble, open_inputs
from firstlight.train.loop import Parts, train_step
from firstlight.train.place import Place
from firstlight.train.run_folder import RunFolder
from firstlight.train.state import TrainState
from tests.resume import legs
from tests.resume.legs import Chain, Leg

TIMEOUT = timedelta(seconds=300)
STEPS = 21
SETTINGS = (
    f"training.steps={STEPS}",
    "training.global_batch_size=12",
    "training.micro_batch_size=1",
    "training.evaluate_samples=7",
    "data.train.sequence_length=16",
    "checkpoint.keep_last=100",
    "monitor.sinks=[jsonl]",
    "optimizer.learning_rate=1e-2",
)
"""Seven samples fill no batch of an evaluation."""


@dataclass(kw_only=True)
class Witness:
    """An engine that also tells which samples it was given."""

    engine: Engine
    numbers: Mapping[bytes, int]
    seen: list[list[int]] = field(default_factory=list)

    def forward_backward(self, batch: HostBatch) -> LossReport:
        """See Engine."""
        self.seen.append([self.numbers[row.astype(np.int64).tobytes()] for row in np.asarray(batch.tokens)])
        return self.engine.forward_backward(batch)

    def evaluate(self, batch: HostBatch) -> tuple[float, float]:
        """See Engine."""
        return self.engine.evaluate(batch)


@dataclass(kw_only=True)
class Record:
    """What a rank writes down: blocks of tensors and where they begin, and plain values."""

    blocks: dict[str, Tensor] = field(default_factory=dict)
    offsets: dict[str, tuple[int, ...]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    def keep(self, moment: str, parts: Parts, state: TrainState) -> None:
        """The whole state, and how the model does on the held-out set."""
        for name, tensor in state.tensors().items():
            shard = local_shard(tensor, is_first_rank=False)
            self.blocks[f"{moment}/{name}"] = shard.data.clone()
            self.offsets[f"{moment}/{name}"] = shard.offset
            self.shapes[f"{moment}/{name}"] = shard.global_shape
        (evaluation,) = parts.evaluator.run(state.step)
        self.values[moment] = {
            "state": state.state_dict(),
            "evaluation": [evaluation.loss, evaluation.tokens],
        }

    def step(self, name: str, parts: Parts, state: TrainState, witness: Witness) -> None:
        """Take a step, and keep what it was on and what it gave."""
        report = train_step(parts, state)
        self.values[name] = {
            "samples": witness.seen[-1],
            "loss": {"total": report.loss.total, **report.loss.parts, "grad_norm": report.update.grad_norm},
            "load": dict(report.loss.expert_load),
        }

    def write(self, path: Path) -> None:
        """One file of tensors, one of all the rest."""
        save_file(self.blocks, path.with_suffix(".safetensors"))
        path.with_suffix(".json").write_text(
            json.dumps({"offsets": self.offsets, "shapes": self.shapes, "values": self.values})
        )


def config_of(chain: Chain, leg: Leg, output: Path) -> RunConfig:
    """The run of this working directory in the layout of `leg`; all rules hold."""
    overrides = [*SETTINGS, *chain.model, f"parallelism={leg.parallelism}", f"training.output_folder={output}"]
    loaded = load(Path("run.yaml"), overrides, read_model)
    loaded.require_rules(world_size=leg.size)
    return loaded.config


def numbered(dataset: Dataset) -> dict[bytes, int]:
    """The number of each sample by its tokens, no two of which are alike."""
    rows: NDArray[np.int64] = read_samples(dataset, np.arange(len(dataset))).tokens[:, :-1].astype(np.int64)
    numbers = {row.tobytes(): number for number, row in enumerate(rows)}
    assert len(numbers) == len(rows)
    return numbers


def take(chain: Chain, leg: Leg, world: World, output: Path) -> Record:
    """Restore, take a step and save, take another one: of a run that starts, two before the first save."""
    config, device, folder = config_of(chain, leg, output), torch.device("cpu"), RunFolder(path=output)
    with FolderLock(output) as lock, joined(world, device) as peers:
        if world.rank == 0:
            lock.acquire()
            folder.claim(config)
        peers.barrier()
        inputs = open_inputs(config)
        place = Place(world=world, peers=peers, device=device, folder=folder, lock=lock)
        return _steps(config, inputs, place)


def _steps(config: RunConfig, inputs: Any, place: Place) -> Record:
    parts, state = assemble(config, inputs, place)
    witness = Witness(engine=parts.engine, numbers=numbered(inputs.train))
    parts = replace(parts, engine=witness)
    layout = Layout.of(config.parallelism, place.world.size)
    record = Record(values={"data_rank": layout.data_rank(place.world.rank)})
    record.values["restored_step"] = parts.checkpointer.restore(state)
    record.keep("restored", parts, state)
    with parts.recorder.open(state.step, samples=state.samples, tokens=state.tokens):
        record.step("next", parts, state, witness)
        parts.checkpointer.save(state)
        record.keep("saved", parts, state)
        record.step("undisturbed", parts, state, witness)
        parts.checkpointer.finish()
    state.data.close()
    return record


def main(folder: Path, rank: int, size: int, chains: tuple[Chain, ...]) -> None:
    """Take part in the legs that have this rank, wait for the others. Ends with the test that started it."""
    die_with(os.getppid())
    torch.set_num_threads(1)
    turns = FileStore(str(folder / "turns"), size)
    for chain in chains:
        for number, leg in enumerate(chain.legs):
            name = f"{chain.name}-{number}-{leg.name}"
            if rank < leg.size:
                meeting = folder / f"{name}-ranks"
                meeting.mkdir(exist_ok=True)
                world = World(rank=rank, size=leg.size, local_size=leg.size, store_folder=meeting)
                output = folder / (f"{chain.name}-out" if chain.goes_on else f"{name}-out")
                take(chain, leg, world, output).write(folder / f"{name}-{rank}")
            if rank == 0:
                turns.set(name, "done")
            turns.wait([name], TIMEOUT)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), getattr(legs, sys.argv[4]))
