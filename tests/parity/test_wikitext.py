"""WikiText-2 with DeepSeek-V3's own tokenizer: prepared, and learnt from."""

from pathlib import Path

import pytest

from tests.runs import TINY_YAML, TinyRun, train_arguments

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXT = DATA / "wikitext-2" / "wiki.test.tokens"
HELD_OUT = DATA / "wikitext-2" / "wiki.valid.tokens"
TOKENIZER = DATA / "tokenizers" / "deepseek-v3"
STEPS = 50

pytestmark = [
    pytest.mark.skipif(not TEXT.exists(), reason="WikiText-2 is not beside this checkout"),
    pytest.mark.slow,
    pytest.mark.interop,
]


def prepare(run: TinyRun, text: Path, name: str) -> str:
    done = run.firstlight(
        "prepare", "--input", str(text), "--documents", "line", "--tokenizer", str(TOKENIZER), "--output-prefix", name
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wikitext_is_learnt(tmp_path: Path):
    run = TinyRun(folder=tmp_path)
    assert "documents" in prepare(run, TEXT, "wiki")
    prepare(run, HELD_OUT, "valid")
    (tmp_path / "run.yaml").write_text(TINY_YAML)
    overrides = (
        "model.vocab_size=129280",
        f"data.tokenizer={TOKENIZER}",
        "data.train.sources.0.path=wiki_text_document",
        "data.train.sequence_length=64",
        "model.max_position_embeddings=64",
        "data.evaluate.0.path=valid_text_document",
        "training.micro_batch_size=4",
        "optimizer.learning_rate=5e-3",
        "lr_scheduler={type: cosine, warmup_steps: 5}",
        f"training.steps={STEPS}",
    )
    # A vocabulary of 129,280 makes a step of 256 tokens take half a second on one core.
    done = run.firstlight(*train_arguments(*overrides), timeout=600)
    assert done.returncode == 0, done.stderr
    losses = [line["loss/lm"] for line in run.metrics("step")]
    assert len(losses) == STEPS
    thirds = [sum(losses[start : start + 10]) / 10 for start in (0, 20, 40)]
    assert thirds[0] > thirds[1] > thirds[2]
    # ln(129,280) = 11.77 is what an untrained model has.
    assert losses[0] == pytest.approx(11.77, abs=0.1)
    (evaluation,) = run.metrics("evaluation")
    assert evaluation["evaluate/tiny/loss"] < 8.5
