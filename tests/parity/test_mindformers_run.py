"""A training run of MindFormers itself, done again here from its YAML file, its data and its first weights.

What the run is: a DeepSeek-V3 of two layers with four experts and multi-token prediction, six steps. Its first step has
a learning rate of 0, so the checkpoint after it holds the weights that it began with.
"""

import re
from pathlib import Path

import pytest

from tests.runs import TinyRun

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "mindspore"
RUN = GOLDENS / "tiny_deepseek_run"
MEGATRON = GOLDENS / "megatron"
pytestmark = pytest.mark.skipif(not RUN.is_dir(), reason=f"the MindFormers run is not in {RUN}")

LARGEST_DIFFERENCE = 5e-4
"""Of a loss of about 8.4. Some operators of that run stood for those of an accelerator."""

STEP_LINE = re.compile(r"step:\[\s*(\d+)/\s*6\], loss:\[\s*([\d.]+)/.*global_norm: \[([\d.]+)\]")


def logged() -> tuple[list[float], list[float]]:
    """Losses and norms of gradients that MindFormers logged, step by step."""
    text = (RUN / "output" / "log" / "rank_0" / "info.log").read_text(encoding="utf-8", errors="replace")
    found = {int(step): (float(loss), float(norm)) for step, loss, norm in STEP_LINE.findall(text)}
    return [found[step][0] for step in sorted(found)], [found[step][1] for step in sorted(found)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "weights", ["output/checkpoint/rank_0/deepseekv3_rank_0-1_1.safetensors", "tiny_weights_step1.ckpt"]
)
def test_its_own_command_takes_its_own_weights(tmp_path: Path, weights: str) -> None:
    """Nothing is converted or rewritten by hand, and the losses are read from the log as MindFormers writes them."""
    (tmp_path / "old.yaml").write_text((RUN / "ds3_golden.yaml").read_text(encoding="utf-8"))
    run = TinyRun(folder=tmp_path)
    flags = {
        "config": "old.yaml",
        "load_checkpoint": str(RUN / weights),
        "train_dataset.data_loader.config.data_path": f"[1,{MEGATRON / 'stitch_64_text_document'}]",
        "processor.tokenizer.tokenizer_file": str(MEGATRON / "tokenizer.json"),
        "output_dir": "mine",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", value)]
    for _ in range(2):  # the second finds the weights converted and the run finished
        done = run.firstlight("mindformers", "run", "--home", str(tmp_path), "--", *words)
        assert done.returncode == 0, done.stderr
        if "nothing to do" in done.stderr:
            break
        found = re.findall(r"step:\[\s*\d+/\s*6\], loss: ([\d.]+), .*global_norm: \[([\d.]+)\]", done.stdout)
        losses, norms = logged()
        assert [float(loss) for loss, _ in found] == pytest.approx(losses, abs=LARGEST_DIFFERENCE)
        assert [float(norm) for _, norm in found] == pytest.approx(norms, abs=LARGEST_DIFFERENCE)
        assert "tensors of weights to begin with are converted into" in done.stderr
    assert "are converted into" not in done.stderr
    assert len(list((tmp_path / "mine" / "converted-weights").iterdir())) == 1


def test_losses_are_those_of_mindformers(tmp_path: Path) -> None:
    old = (RUN / "ds3_golden.yaml").read_text(encoding="utf-8")
    prefix = MEGATRON / "stitch_64_text_document"
    (tmp_path / "old.yaml").write_text(old.replace("/run/stitch_64_text_document", str(prefix)), encoding="utf-8")
    run = TinyRun(folder=tmp_path)
    translated = run.firstlight("translate", "old.yaml")
    assert translated.returncode == 0, translated.stderr
    (tmp_path / "new.yaml").write_text(translated.stdout)
    weights = RUN / "output" / "checkpoint" / "rank_0" / "deepseekv3_rank_0-1_1.safetensors"
    converted = run.firstlight("convert", str(weights), "hub", "--config", "new.yaml")
    assert converted.returncode == 0, converted.stderr
    overrides = [
        "model.from_hf=hub",
        f"data.tokenizer={MEGATRON / 'tokenizer.json'}",
        f"training.output_folder={run.output}",
        "monitor.sinks=[jsonl]",
        "monitor.peak_flops_per_second=1e12",
    ]
    trained = run.firstlight("train", "old.yaml", *(word for one in overrides for word in ("--set", one)))
    assert trained.returncode == 0, trained.stderr
    losses, norms = logged()
    assert len(losses) == 6
    assert [step["loss"] for step in run.metrics("step")] == pytest.approx(losses, abs=LARGEST_DIFFERENCE)
    assert [step["grad_norm"] for step in run.metrics("step")] == pytest.approx(norms, abs=LARGEST_DIFFERENCE)
    assert [step["learning_rate"] for step in run.metrics("step")] == pytest.approx(
        [0, 5e-4, 1e-3, 1e-3, 1e-3, 1e-3], rel=1e-6
    )
