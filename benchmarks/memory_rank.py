"""One rank of measured runs: for each row some micro-batches and an update, and a line of JSON with the bytes it held.

Run as `memory_rank.py FOLDER RANK SIZE ROWS`, where ROWS is JSON of a list of `Row`.
"""

import gc
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore
from torch.autograd.graph import saved_tensors_hooks

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]  # for a checkout that is not installed

from benchmarks.held_bytes import HeldBytes, local  # noqa: E402
from benchmarks.measured import memory_megabytes  # noqa: E402
from firstlight.config.model import ModelConfig  # noqa: E402
from firstlight.config.optimizer import AdamWConfig  # noqa: E402
from firstlight.config.pipeline import SPLITS_BACKWARD  # noqa: E402
from firstlight.config.recompute import Recompute  # noqa: E402
from firstlight.config.training import ParallelismConfig  # noqa: E402
from firstlight.data.stream import Batch  # noqa: E402
from firstlight.launch.parent import die_with  # noqa: E402
from firstlight.layout.mesh import Layout  # noqa: E402
from firstlight.layout.stages import stages_of, stages_on  # noqa: E402
from firstlight.models.balancing import BiasBalancing  # noqa: E402
from firstlight.models.decoder import Decoder  # noqa: E402
from firstlight.optim.optimizer import Optimizer, Surroundings  # noqa: E402
from firstlight.parallel.apply import (  # noqa: E402
    Keeping,
    LaidOut,
    build_parallel,
    copies_in,
    parameter_names,
    routers,
)
from firstlight.parallel.engine import Engine, PlainEngine, Work  # noqa: E402
from firstlight.parallel.group import sum_over_ranks  # noqa: E402
from firstlight.parallel.losses import RankSums  # noqa: E402
from firstlight.parallel.pipelined_engine import PipelinedEngine  # noqa: E402

MICRO_BATCHES = 3
"""At least: one process sums gradients in more than the parameters' precision from three on, as all other layouts do.
A pipeline has as many as ranks, or it would not fill."""
TIMEOUT = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is measured: sections of the configuration, and the sizes of the model."""

    parallelism: dict[str, Any] = field(default_factory=dict)
    recompute: dict[str, Any] = field(default_factory=lambda: {"kind": "none"})
    hidden_size: int
    sequence_length: int
    micro_batch_size: int


@dataclass(kw_only=True)
class Figures:
    """Bytes on this rank."""

    parameters: int = 0
    """What this rank keeps of them."""
    optimizer_state: int = 0
    gradients: int = 0
    """As the optimizer gets them."""
    between: int = 0
    """From one micro-batch to the next: sums of gradients, and what stays gathered. 0 in a pipeline, where activations
    of other micro-batches are there as well."""
    saved: int = 0
    """What operators keep for the backward pass of a micro-batch, parameters aside, in all stages here."""
    held: int = 0
    """All that is held after a forward pass of a stage beyond what was before it."""
    peak: int = 0
    """The most of all that forward and backward passes make, at once."""
    resident: int = 0
    """The most memory of the process, beyond what it had before the row."""


class SavedTensors:
    """Bytes of tensors that a forward pass saves, each memory once; parameters are not activations."""

    def __init__(self, models: Sequence[Decoder]) -> None:
        self._parameters: set[int] = set()
        self._saved: dict[int, int] = {}
        self._most: dict[int, int] = {}
        self._is_forward = False
        for model in models:
            for module in model.modules():
                # After FSDP's, which gathers.
                module.register_forward_pre_hook(self._know)

    def _know(self, module: nn.Module, _inputs: object) -> None:
        """FSDP frees the memory of what it gathers, but keeps the storages; a decoder reads its head itself."""
        for parameter in module.parameters(recurse=isinstance(module, Decoder)):
            self._parameters.add(local(parameter).untyped_storage()._cdata)

    def begin(self) -> None:
        """A forward pass begins."""
        self._saved, self._is_forward = {}, True

    def end(self, stage: int) -> None:
        """It was that of `stage`."""
        self._most[stage] = max(self._most.get(stage, 0), sum(self._saved.values()))
        self._is_forward = False

    def pack(self, tensor: Tensor) -> Tensor:
        """Count `tensor` and leave it."""
        storage = local(tensor).untyped_storage()
        if self._is_forward and storage._cdata not in self._parameters:
            self._saved[storage._cdata] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        """Of a micro-batch in all stages."""
        return sum(self._most.values())


def model_config(row: Row) -> ModelConfig:
    """DeepSeek-V3 with four layers and one of multi-token prediction, and sixteen experts."""
    width = row.hidden_size
    return ModelConfig.model_validate(
        {
            "family": "deepseek_v3",
            "vocab_size": 16 * width,
            "hidden_size": width,
            "num_hidden_layers": 4,
            "attention": {"kind": "mla", "num_attention_heads": 8, "q_lora_rank": width // 2}
            | {"kv_lora_rank": width // 4, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32},
            "feed_forward": {"kind": "moe", "first_k_dense_replace": 1, "intermediate_size": 2 * width}
            | {"moe_intermediate_size": width // 2, "n_routed_experts": 16, "router": {"num_experts_per_tok": 4}},
            "multi_token_prediction": {"num_layers": 1},
        }
    )


def batch(row: Row, config: ModelConfig, layout: Layout, rank: int) -> Batch:
    """This rank's rows."""
    source = np.random.default_rng(layout.data_rank(rank))
    rows = max(MICRO_BATCHES, layout.pp) * row.micro_batch_size
    tokens = source.integers(0, config.vocab_size, (rows, row.sequence_length + 1))
    mask = np.ones((rows, row.sequence_length), dtype=np.float32)
    return Batch(
        tokens=tokens[:, :-1], labels=tokens[:, 1:], loss_mask=mask, begins=mask > 1, samples=rows * layout.data_size
    )


def watched_step(models: Sequence[Decoder], engine: Engine, rows: Batch) -> Figures:
    """Forward and backward of the micro-batches, measured at their borders."""
    figures = Figures()
    before: list[int] = []
    saved = SavedTensors(models)
    with HeldBytes(tracks_peak=True) as held:

        def begin(_model: nn.Module, _inputs: object) -> None:
            before.append(held.now())
            saved.begin()

        def end(model: nn.Module, _inputs: object, _sums: object) -> None:
            figures.held = max(figures.held, held.now() - before[-1])
            saved.end(id(model))

        for model in models:
            # The first of all hooks: FSDP's gathers what belongs to no layer.
            model.register_forward_pre_hook(begin, prepend=True)
            model.register_forward_hook(end)
        with saved_tensors_hooks(saved.pack, lambda tensor: tensor):
            engine.forward_backward(rows)
    is_pipelined = isinstance(engine, PipelinedEngine)
    figures.between, figures.saved, figures.peak = 0 if is_pipelined else before[1], saved.bytes, held.peak
    return figures


def built(row: Row, config: ModelConfig, parallelism: ParallelismConfig, rank: int, size: int) -> LaidOut:
    """The model, or the stages of it that this rank has."""
    recompute: Recompute = TypeAdapter(Recompute).validate_python(row.recompute)
    layout, pipeline = Layout.of(parallelism, size), parallelism.pipeline
    keeping = Keeping(recompute=recompute, splits_backward=layout.pp > 1 and pipeline.schedule in SPLITS_BACKWARD)
    stages = stages_of(config, pipeline, layout.pp, row.sequence_length)
    here = [stages[index] for index in stages_on(layout.coordinates(rank)["pp"], layout.pp, pipeline)]
    return build_parallel(config, layout, keeping, stages=here, device=torch.device("cpu"), seed=1)


def measure(row: Row, rank: int, size: int) -> Figures:
    """Build, step, count."""
    gc.collect()
    # The kernel's mark of the most memory begins anew.
    Path("/proc/self/clear_refs").write_text("5")
    start = memory_megabytes("VmRSS")
    config, parallelism = model_config(row), ParallelismConfig.model_validate(row.parallelism)
    layout = Layout.of(parallelism, size)
    model = built(row, config, parallelism, rank, size)
    balancing = BiasBalancing(routers(*model.stages))
    work = Work(micro_batch_size=row.micro_batch_size, sums=RankSums(layout=layout), balancing=balancing)
    is_pipelined = model.pipeline_group is not None
    engine: Engine = (
        PipelinedEngine(model, parallelism.pipeline.schedule, work)
        if is_pipelined
        else PlainEngine(model.stages[0], work)
    )
    around = Surroundings(
        learning_rate=lambda _step: 1e-3,
        sum_over_ranks=sum_over_ranks,
        after_update=balancing.update,
        is_fused=True,
        copies=copies_in(layout),
    )
    optimizer = Optimizer(parameter_names(*model.stages), AdamWConfig(learning_rate=1e-3), around)
    gc.collect()
    figures = watched_step(model.stages, engine, batch(row, config, layout, rank))
    parameters = [one for stage in model.stages for one in stage.parameters()]
    figures.parameters = sum(local(one).nbytes for one in parameters)
    figures.gradients = sum(local(one.grad).nbytes for one in parameters if one.grad is not None)
    figures.optimizer_state = sum(local(moment).nbytes for moment in optimizer.tensors().values())
    optimizer.step()
    figures.resident = int(1e6 * (memory_megabytes("VmHWM") - start))
    return figures


def main(folder: Path, rank: int, size: int, rows: list[Row]) -> None:
    """Join the other ranks, measure, print."""
    die_with(os.getppid())
    torch.set_num_threads(1)
    if size > 1:
        store = FileStore(str(folder / "ranks"), size)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=TIMEOUT)
    for row in rows:
        print(json.dumps(vars(measure(row, rank, size))), flush=True)
    if size > 1:
        dist.barrier()
        gc.collect()
        dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), [Row(**row) for row in json.loads(sys.argv[4])])
