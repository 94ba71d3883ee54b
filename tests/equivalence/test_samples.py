"""A run writes in the middle of its training, in any layout, what `generate` makes of its checkpoint there."""

from pathlib import Path

import pytest

from firstlight.observe.history import read_histories
from firstlight.observe.samples import BETWEEN
from firstlight.train.generate import generate
from firstlight.train.sampling import Sampling
from firstlight.train.trained import load_trained
from tests.runs import TinyRun, make_tiny_run

PROMPTS = ("", "7: ab", "12: words that are none of it")
"""With what follows them, longer than the context of 32 tokens."""
SAMPLING = Sampling(max_new_tokens=24, temperature=0.7, top_k=20, seed=5)
SAMPLES = (
    f"monitor.samples={{prompts: ['{PROMPTS[0]}', '{PROMPTS[1]}', '{PROMPTS[2]}'], every_steps: 2, "
    "max_new_tokens: 24, temperature: 0.7, top_k: 20, seed: 5}",
    "training.global_batch_size=8",
    "training.micro_batch_size=1",
    "checkpoint.save_every_steps=0",
)
EXPERTS = "expert_parallel: 2"
LAYOUTS = {
    "2 stages": (2, "{pipeline_parallel: 2}"),
    "2 sharded, experts over 2": (2, f"{{{EXPERTS}}}"),
    "tensors over 2": (2, f"{{tensor_parallel: 2, {EXPERTS}}}"),
    "a ring over 2": (2, f"{{context_parallel: 2, {EXPERTS}}}"),
    "heads over 2": (2, f"{{context_parallel: 2, context: {{kind: all_to_all}}, {EXPERTS}}}"),
    "2 stages, tensors over 2": (4, "{pipeline_parallel: 2, tensor_parallel: 2}"),
    "2 stages, 2 sharded": (4, "{pipeline_parallel: 2, sharded: optimizer}"),
    "a ring over 2, tensors over 2": (4, "{context_parallel: 2, tensor_parallel: 2}"),
}
QUICK = "2 stages"


def expected(run: TinyRun) -> str:
    """What a single process makes of the last checkpoint."""
    trained = load_trained(run.output)
    prompts = (PROMPTS[0], PROMPTS[1], PROMPTS[2])
    return BETWEEN.join(generate(trained, prompt, SAMPLING) for prompt in prompts)


def assert_written(run: TinyRun) -> None:
    assert sorted(path.name for path in run.output.glob("sample*")) == ["sample-00000002.txt", "sample-00000004.txt"]
    (history,) = read_histories([run.output])
    assert history.samples[4] == expected(run)
    assert history.samples[2] != history.samples[4], "the model has learnt in between"


def test_one_process(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    done = run.train(*SAMPLES)
    assert done.returncode == 0, done.stderr
    assert_written(run)


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in LAYOUTS]
)
def test_every_layout(tmp_path: Path, layout: str) -> None:
    processes, parallelism = LAYOUTS[layout]
    run = make_tiny_run(tmp_path)
    done = run.train(*SAMPLES, f"parallelism={parallelism}", processes=processes)
    assert done.returncode == 0, done.stderr
    assert_written(run)
