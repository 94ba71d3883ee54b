"""A run whose batch grows, whose sequences become longer with YaRN, and whose blend changes; and copies of it as they
stood after a step."""

import shutil
from pathlib import Path

from tests.runs import TinyRun

STEPS = 12
SOURCES = "[{path: data/tiny_text_document, weight: 3}, {path: data/tiny_heldout_text_document}]"
YARN = "{kind: yarn, factor: 4, original_max_position_embeddings: 128, mscale_all_dim: 1}"
PHASES = (
    "[{begins_at: {tokens: 2000}, weights: [1, 1]}, "
    f"{{begins_at: {{tokens: 8000}}, sequence_length: 512, rope_scaling: {YARN}, weights: [2, 1]}}, "
    "{begins_at: 10, weights: [0, 1]}]"
)
OVERRIDES = (
    f"training.steps={STEPS}",
    "training.global_batch_size={samples: 16, ramp: {start: 4, over: 10}}",
    "training.micro_batch_size=2",
    "training.evaluate_every_steps=3",
    "model.max_position_embeddings=512",
    f"data.train.sources={SOURCES}",
    "data.train.sequence_length=128",
    f"phases={PHASES}",
    "checkpoint.save_every_steps=1",
    "checkpoint.keep_last=100",
    "checkpoint.asynchronous=false",
    "monitor.sinks=[jsonl]",
)
"""The batch of the ramp is odd at some steps, so that micro-batches are short and ranks have uneven numbers of them."""


def as_after(run: TinyRun, step: int, folder: Path) -> TinyRun:
    """A copy of `run` in `folder`, as it stood when the checkpoint of `step` had been saved."""
    shutil.copytree(run.folder, folder)
    copy = TinyRun(folder=folder)
    for saved in copy.checkpoints.glob("step-*"):
        if int(saved.name.removeprefix("step-")) > step:
            shutil.rmtree(saved)
    return copy
