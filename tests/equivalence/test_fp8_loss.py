"""A run in 8 bits learns what one in bfloat16 learns: 300 steps on the source of the standard library."""

import json
import sysconfig
from pathlib import Path

import pytest

from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.tokenizer import train_tokenizer
from tests.runs import TINY_YAML, TinyRun
from tests.unit.train.tiny import train_here

STEPS, LAST = 300, 50
TOLERANCE = 0.0025
"""DeepSeek-V3's own measure, arXiv:2412.19437, section 3.3."""
VOCABULARY = 512

RUN = (
    f"model.vocab_size={VOCABULARY}",
    "model.hidden_size=192",
    "model.max_position_embeddings=64",
    "model.attention={kind: mla, num_attention_heads: 4, q_lora_rank: 96, kv_lora_rank: 80, qk_nope_head_dim: 32, "
    "qk_rope_head_dim: 16, v_head_dim: 32}",
    "model.feed_forward={kind: moe, first_k_dense_replace: 1, intermediate_size: 400, moe_intermediate_size: 136, "
    "n_routed_experts: 4, n_shared_experts: 1, router: {num_experts_per_tok: 2, bias_update_rate: 0.01}}",
    "model.multi_token_prediction=null",
    "data.train.sequence_length=64",
    f"training.steps={STEPS}",
    "training.global_batch_size=8",
    "training.micro_batch_size=8",
    "training.evaluate_samples=256",
    "checkpoint.save_every_steps=0",
    "optimizer.learning_rate=2e-3",
    "lr_scheduler={type: cosine, warmup_steps: 20}",
)
"""Most widths end within a tile."""


def source_run(folder: Path) -> TinyRun:
    """The tiny run on the modules of the standard library, one document each."""
    texts = [file.read_text(errors="replace") for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    assert len(texts) > 100
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    train_tokenizer(texts, VOCABULARY).save(str(folder / "tokenizer.json"))
    request = PrepareRequest(
        inputs=(folder / "corpus.jsonl",),
        tokenizer=folder / "tokenizer.json",
        output_prefix=folder / "data" / "tiny",
        held_out_fraction=0.05,
    )
    prepare(request)
    (folder / "run.yaml").write_text(TINY_YAML)
    return TinyRun(folder=folder)


def losses(folder: Path, precision: str) -> tuple[float, float]:
    """The mean of the last steps' losses of the next token, and the loss on held-out text."""
    folder.mkdir()
    run = source_run(folder)
    train_here(run, *RUN, f"training.precision={precision}")
    steps = [line["loss/lm"] for line in run.metrics("step")]
    assert len(steps) == STEPS
    return sum(steps[-LAST:]) / LAST, run.metrics("evaluation")[-1]["evaluate/tiny/loss"]


@pytest.mark.slow
@pytest.mark.parametrize("fp8", ["fp8", "{kind: fp8, parameters: bf16, scales: power_of_two}"])
def test_a_quarter_of_a_percent(fp8: str, tmp_path: Path):
    wide, narrow = losses(tmp_path / "bf16", "bf16"), losses(tmp_path / "fp8", fp8)
    for name, expected, found in zip(("training", "held-out"), wide, narrow, strict=True):
        assert found == pytest.approx(expected, rel=TOLERANCE), name
    assert wide[1] < 4.5
    assert narrow != wide
