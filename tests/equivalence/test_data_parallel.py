"""Sharded and replicated data parallelism train as one process does: the same losses from the same batches."""

from pathlib import Path

import pytest

from tests.runs import TinyRun, make_tiny_run

STEPS = 20
RELATIVE_DIFFERENCE = 1e-6
BATCHES = (
    f"training.steps={STEPS}",
    "training.global_batch_size=8",
    "training.micro_batch_size=1",
    "checkpoint.save_every_steps=0",
)
LAYOUTS = {
    "2 sharded": (2, ()),
    "4 sharded": (4, ()),
    "2 replicas of 2 shards": (4, ("parallelism.data_parallel_replicate=2",)),
    "2 replicas": (2, ("parallelism.data_parallel_replicate=2",)),
    "2 sharded, tensors over 2": (4, ("parallelism.tensor_parallel=2", "parallelism.expert_parallel=2")),
    "2 stages": (2, ("parallelism.pipeline_parallel=2",)),
    "contexts over 2": (2, ("parallelism.context_parallel=2", "parallelism.expert_parallel=2")),
    "2 sharded, recomputed": (2, ("recompute.kind=full",)),
    "optimizer sharded over 2": (2, ("parallelism.sharded=optimizer",)),
    "optimizer and gradients over 2 replicas of 2": (
        4,
        ("parallelism.data_parallel_replicate=2", "parallelism.sharded=optimizer+gradients"),
    ),
}
QUICK = ("2 sharded", "2 stages")
"""What every run of the tests trains; `test_layouts` compares more of them, without a whole run."""

LLAMA = (
    "model.family=llama",
    "model.attention={kind: gqa, num_attention_heads: 4, num_key_value_heads: 2}",
    "model.feed_forward={kind: dense, intermediate_size: 64}",
    "model.multi_token_prediction=null",
    "model.tie_word_embeddings=true",
)

HEADS = "kind: gqa, num_attention_heads: 4, num_key_value_heads: 2, head_dim: 12"
EXPERTS = "kind: moe, moe_intermediate_size: 16, n_routed_experts: 4"
NO_MTP = "model.multi_token_prediction=null"
FAMILIES = {
    "gpt_oss": (
        f"model.attention={{{HEADS}, bias: all, has_sinks: true, window: {{size: 8, full_every: 2}}}}",
        f"model.feed_forward={{{EXPERTS}, n_shared_experts: 0, has_expert_bias: true, "
        "activation: {kind: clamped_swiglu}, router: {scoring: topk_softmax, num_experts_per_tok: 2}}",
        NO_MTP,
    ),
    "glm4_moe": (
        f"model.attention={{{HEADS}, bias: qkv, qk_norm: per_head, rope: {{partial_rotary_factor: 0.5}}}}",
        f"model.feed_forward={{{EXPERTS}, router: {{num_experts_per_tok: 2}}}}",
    ),
    "glm4": (
        f"model.attention={{{HEADS}, rope: {{layout: interleaved, partial_rotary_factor: 0.5}}}}",
        "model.feed_forward={kind: dense, intermediate_size: 64}",
        "model.norms=sandwich",
        NO_MTP,
    ),
}


def train(folder: Path, *overrides: str, processes: int = 1) -> TinyRun:
    run = make_tiny_run(folder)
    done = run.train(*BATCHES, *overrides, processes=processes)
    assert done.returncode == 0, done.stderr
    return run


def largest_difference(run: TinyRun, reference: TinyRun, figure: str) -> float:
    pairs = zip(run.metrics("step"), reference.metrics("step"), strict=True)
    return max(abs(here[figure] - there[figure]) / abs(there[figure]) for here, there in pairs)


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return train(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return train(tmp_path_factory.mktemp("one-llama"), *LLAMA)


def test_one_process_learns(deepseek: TinyRun):
    steps = deepseek.metrics("step")
    assert [line["step"] for line in steps] == list(range(1, STEPS + 1))
    assert steps[-1]["loss"] < 0.95 * steps[0]["loss"]


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in LAYOUTS]
)
def test_deepseek_trains_alike(deepseek: TinyRun, layout: str, tmp_path: Path):
    processes, overrides = LAYOUTS[layout]
    run = train(tmp_path, *overrides, processes=processes)
    for figure in ("loss", "loss/lm", "loss/mtp", "loss/balance", "grad_norm", "expert_load/max_vio"):
        assert largest_difference(run, deepseek, figure) < RELATIVE_DIFFERENCE, figure
    (here,), (there,) = run.metrics("evaluation"), deepseek.metrics("evaluation")
    assert here["evaluate/tiny/loss"] == pytest.approx(there["evaluate/tiny/loss"], rel=RELATIVE_DIFFERENCE)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_llama_with_tied_embeddings_trains_alike(llama: TinyRun, processes: int, tmp_path: Path):
    run = train(tmp_path, *LLAMA, processes=processes)
    for figure in ("loss", "grad_norm"):
        assert largest_difference(run, llama, figure) < RELATIVE_DIFFERENCE, figure


def test_a_smaller_batch_is_noticed(deepseek: TinyRun, tmp_path: Path):
    """The comparison can fail: another batch size is far outside of the bound."""
    run = train(tmp_path, "training.global_batch_size=4")
    assert largest_difference(run, deepseek, "loss") > 1000 * RELATIVE_DIFFERENCE


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_train_alike(family: str, tmp_path: Path):
    overrides = (f"model.family={family}", *FAMILIES[family])
    reference = train(tmp_path / "one", *overrides)
    run = train(tmp_path / "two", *overrides, "recompute.kind=full", processes=2)
    for figure in ("loss", "grad_norm"):
        assert largest_difference(run, reference, figure) < RELATIVE_DIFFERENCE, figure


@pytest.mark.slow
def test_eight_processes_train_alike(deepseek: TinyRun, tmp_path: Path):
    run = train(tmp_path, processes=8)
    assert largest_difference(run, deepseek, "loss") < RELATIVE_DIFFERENCE
