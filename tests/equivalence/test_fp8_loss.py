"""A run whose products are of 8 bits learns what one in bfloat16 learns."""

import json
import random
from pathlib import Path

import pytest

from firstlight.data.prepare import PrepareRequest, prepare
from tests.runs import TinyRun, make_tiny_run
from tests.unit.train.tiny import train_here

STEPS, LAST = 300, 50
TOLERANCE = 0.0025
"""DeepSeek-V3's own measure, arXiv:2412.19437, section 3.3."""

MODEL = (
    "model.hidden_size=192",
    "model.attention={kind: mla, num_attention_heads: 4, q_lora_rank: 96, kv_lora_rank: 80, qk_nope_head_dim: 32, "
    "qk_rope_head_dim: 16, v_head_dim: 32}",
    "model.feed_forward={kind: moe, first_k_dense_replace: 1, intermediate_size: 400, moe_intermediate_size: 136, "
    "n_routed_experts: 4, n_shared_experts: 1, router: {num_experts_per_tok: 2, bias_update_rate: 0.01}}",
)
"""Most widths end within a tile."""


def sentences(count: int) -> list[str]:
    """Documents of sixty words of a language in which four words may follow each."""
    source = random.Random(1)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 6))) for _ in range(60)]
    following = {word: source.sample(words, 4) for word in words}
    documents = []
    for _ in range(count):
        line = [source.choice(words)]
        while len(line) < 60:
            line.append(source.choice(following[line[-1]]))
        documents.append(" ".join(line))
    return documents


def language_run(folder: Path) -> TinyRun:
    """The tiny run with more text than it reads once."""
    run = make_tiny_run(folder)
    lines = [json.dumps({"text": text}) + "\n" for text in sentences(2000)]
    (folder / "more.jsonl").write_text("".join(lines))
    prepare(
        PrepareRequest(
            inputs=(folder / "more.jsonl",),
            tokenizer=folder / "tokenizer.json",
            output_prefix=folder / "data" / "tiny",
            held_out_fraction=0.1,
        )
    )
    return run


def losses(folder: Path, precision: str) -> tuple[float, float]:
    """The mean of the last steps' losses of the next token, and the loss on held-out text."""
    run = language_run(folder)
    train_here(
        run,
        *MODEL,
        f"training.precision={precision}",
        f"training.steps={STEPS}",
        "training.global_batch_size=8",
        "training.micro_batch_size=8",
        "training.evaluate_samples=128",
        "checkpoint.save_every_steps=0",
        "optimizer.learning_rate=2e-3",
        "lr_scheduler={type: cosine, warmup_steps: 20}",
    )
    steps = [line["loss/lm"] for line in run.metrics("step")]
    assert len(steps) == STEPS
    return sum(steps[-LAST:]) / LAST, run.metrics("evaluation")[-1]["evaluate/tiny/loss"]


@pytest.mark.slow
@pytest.mark.parametrize("fp8", ["fp8", "{kind: fp8, parameters: bf16, scales: power_of_two}"])
def test_a_quarter_of_a_percent(fp8: str, tmp_path: Path):
    wide, narrow = losses(tmp_path / "bf16", "bf16"), losses(tmp_path / "fp8", fp8)
    for name, expected, found in zip(("training", "held-out"), wide, narrow, strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE), name
    assert wide[1] < 2.5
    assert narrow != wide
