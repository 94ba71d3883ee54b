"""What the sections of a MindFormers file mean: batches, layouts, memory, experts, data, saving."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from firstlight.ops.rotary import yarn_frequencies
from tests.unit.compat.old_yaml import CORE, LEGACY, PYNATIVE, changed, faults, translated, valid, with_lines


def section(folder: Path, name: str, text: str, world_size: int | None = None) -> Any:
    """One section of the translation, which is valid."""
    translation = translated(folder, text, world_size=world_size)
    valid(translation, world_size=world_size)
    return translation.values[name]


def batch(folder: Path, text: str, world_size: int | None = None) -> tuple[int, int, int]:
    """Steps, global batch, micro-batch."""
    training = section(folder, "training", text, world_size)
    return training["steps"], training["global_batch_size"], training["micro_batch_size"]


def test_a_pipeline_multiplies_the_batch_by_its_micro_batches(tmp_path: Path) -> None:
    assert batch(tmp_path, LEGACY) == (2 * (1000 // 60), 60, 3)
    copies = LEGACY + "micro_batch_interleave_num: 2\n"
    assert batch(tmp_path, copies) == (2 * (1000 // 120), 120, 3)


def test_accumulation_counts_without_a_pipeline_only(tmp_path: Path) -> None:
    assert batch(tmp_path, CORE) == (1000 // 12, 12, 2)
    piped = changed(CORE, "model_parallel: 2}", "pipeline_stage: 2, micro_batch_num: 4}")
    assert batch(tmp_path, piped) == (1000 // 16, 16, 2)


def test_data_parallelism_alone_takes_every_process(tmp_path: Path) -> None:
    text = CORE + "parallel: {parallel_mode: 0}\n"
    assert batch(tmp_path, text, world_size=4) == (1000 // 8, 8, 2)
    assert section(tmp_path, "parallelism", text, 4)["data_parallel_replicate"] == 4


def test_one_process_where_parallelism_is_off(tmp_path: Path) -> None:
    text = changed(CORE, "use_parallel: True", "use_parallel: False")
    assert batch(tmp_path, text) == (1000 // 6, 6, 2)
    assert translated(tmp_path, text).world_size == 1


def test_pynative_gives_the_batch_and_leaves_out_what_is_not_even(tmp_path: Path) -> None:
    assert batch(tmp_path, PYNATIVE, world_size=4) == (100, 16, 2)
    uneven = changed(PYNATIVE, "global_batch_size: 16", "global_batch_size: 22")
    assert batch(tmp_path, uneven, world_size=4) == (100, 16, 2)
    assert batch(tmp_path, uneven, world_size=1) == (100, 22, 2)


def test_a_run_ends_at_stop_step(tmp_path: Path) -> None:
    text = with_lines(LEGACY, runner_config="{epochs: 2, batch_size: 3, stop_step: 7}")
    assert batch(tmp_path, text)[0] == 7


def test_mindrecord_rows_are_counted(tmp_path: Path) -> None:
    text = with_lines(
        CORE, train_dataset="{data_loader: {type: MindDataset, dataset_dir: /data/a.mindrecord, shuffle: True}}"
    )
    translation = translated(
        tmp_path, text, count_rows=lambda path: 250 if path == Path("/data/a.mindrecord") else None
    )
    assert translation.values["training"]["steps"] == 250 // 12
    assert translation.values["data"]["train"]["order"] == "permuted"
    assert translation.values["data"]["train"]["sources"] == [{"kind": "mindrecord", "path": "/data/a.mindrecord"}]
    assert "its rows cannot be counted" in translated(tmp_path, text).text


@pytest.mark.parametrize(
    ("offset", "prediction", "layers"),
    [("0", 1, [4, 3]), ("0", 0, None), ("[1, 0]", 0, [4, 3]), ("[-1, 1]", 1, [3, 4])],
)
def test_legacy_offsets_count_the_layers_of_multi_token_prediction(
    tmp_path: Path, offset: str, prediction: int, layers: list[int] | None
) -> None:
    text = changed(changed(LEGACY, "offset: 0", f"offset: {offset}"), "mtp_depth: 1", f"mtp_depth: {prediction}")
    pipeline = section(tmp_path, "parallelism", text)["pipeline"]
    assert pipeline.get("split") == (None if layers is None else {"kind": "layers", "layers": layers})


def test_interleaved_stages_are_laid_out_row_by_row(tmp_path: Path) -> None:
    text = changed(CORE, "model_parallel: 2}", "pipeline_stage: 2, micro_batch_num: 4}")
    text = changed(
        text, "    seq_length: 64", "    seq_length: 64\n    offset: [[1, 0], [0, -1]]\n    pp_interleave_num: 2"
    )
    pipeline = section(tmp_path, "parallelism", text)["pipeline"]
    assert pipeline == {
        "schedule": "interleaved_1f1b",
        "stages_per_rank": 2,
        "split": {"kind": "layers", "layers": [3, 2, 2, 1]},
    }


@pytest.mark.parametrize(
    ("parallel", "axes"),
    [
        ("{}", (2, 1, "optimizer")),
        ("{enable_parallel_optimizer: True}", (1, 2, "optimizer")),
        (
            "{enable_parallel_optimizer: True, parallel_optimizer_config: {gradient_accumulation_shard: True}}",
            (1, 2, "optimizer+gradients"),
        ),
        (
            "{enable_parallel_optimizer: True, parallel_optimizer_config: {optimizer_weight_shard_size: 1}}",
            (2, 1, "optimizer"),
        ),
        (
            "{enable_parallel_optimizer: True, parallel_optimizer_config: {optimizer_weight_shard_size: 256}}",
            (1, 2, "optimizer"),
        ),
    ],
)
def test_the_parallel_optimizer_shards(tmp_path: Path, parallel: str, axes: tuple[int, int, str]) -> None:
    found = section(tmp_path, "parallelism", CORE + f"parallel: {parallel}\n")
    assert (found["data_parallel_replicate"], found["data_parallel_shard"], found["sharded"]) == axes


def test_experts_are_cut_out_of_ranks_that_shard(tmp_path: Path) -> None:
    text = changed(with_lines(LEGACY, parallel=""), "expert_parallel: 2", "expert_parallel: 8")
    found = section(tmp_path, "parallelism", text)
    assert (found["data_parallel_replicate"], found["data_parallel_shard"]) == (1, 4)
    assert "data_parallel_shard is 4, not 1" in translated(tmp_path, text).text


@pytest.mark.parametrize(
    ("algorithm", "context"),
    [
        ("colossalai_cp", {"kind": "ring"}),
        ("ulysses_cp", {"kind": "all_to_all"}),
        ("hybrid_cp, ulysses_degree_in_cp: 2", {"kind": "mixed", "all_to_all": 2}),
    ],
)
def test_context_parallelism(tmp_path: Path, algorithm: str, context: dict[str, Any]) -> None:
    degree = 4 if context["kind"] == "mixed" else 2
    text = changed(CORE, "model_parallel: 2}", f"context_parallel: {degree}, context_parallel_algo: {algorithm}}}")
    found = section(tmp_path, "parallelism", text)
    assert (found["context_parallel"], found["context"]) == (degree, context)


@pytest.mark.parametrize(
    ("recompute", "expected"),
    [
        ("{recompute: True}", {"kind": "full", "communication": "repeated"}),
        ("{recompute: True, mp_comm_recompute: False}", {"kind": "full", "communication": "kept"}),
        ("{recompute: [4, 0]}", {"kind": "full", "layers": {"first": 0, "last": 3}, "communication": "repeated"}),
        ("{recompute: [2, 1]}", {"kind": "full", "layers": {"first": 0, "last": 4}, "communication": "repeated"}),
        (
            "{recompute: [1, 1]}",
            {"kind": "full", "layers": {"first": 0, "last": 4, "every": 4}, "communication": "repeated"},
        ),
        ("{select_recompute: True}", {"kind": "selective"}),
        ("{select_recompute: {feed_forward\\.mul: True}}", {"kind": "selective"}),
    ],
)
def test_recompute(tmp_path: Path, recompute: str, expected: dict[str, Any]) -> None:
    text = LEGACY + f"recompute_config: {recompute}\n"
    assert section(tmp_path, "recompute", text) == expected
    assert ("the smallest range" in " ".join(translated(tmp_path, text).text.replace("#", "").split())) == (
        recompute == "{recompute: [2, 1]}"
    )


@pytest.mark.parametrize(
    ("recompute", "expected"),
    [
        ("{mode: full}", {"kind": "full"}),
        ("{mode: full, full_recompute_layer: [0-3]}", {"kind": "full", "layers": {"first": 0, "last": 3}}),
        (
            '{mode: select, select_module: {"layers.*.self_attention.*": [0-5], "layers.*.mlp.*": ["0", "2-3"]}}',
            {"kind": "modules", "modules": ["attention", "feed_forward"], "layers": {"first": 0, "last": 5}},
        ),
    ],
)
def test_recompute_of_pynative(tmp_path: Path, recompute: str, expected: dict[str, Any]) -> None:
    assert section(tmp_path, "recompute", PYNATIVE + f"recompute: {recompute}\n", 8) == expected


def test_offload(tmp_path: Path) -> None:
    text = with_lines(CORE, optimizer="{type: AdamW, swap: True}")
    text += "swap_config: {swap: True, layer_swap: [{backward_prefetch: 1, layers: [0, 1, 2]}]}\n"
    assert section(tmp_path, "offload", text) == {"activations": {"first": 0, "last": 2}, "optimizer_state": "host"}


def test_experts_of_a_legacy_file(tmp_path: Path) -> None:
    feed_forward = section(tmp_path, "model", LEGACY)["feed_forward"]
    assert feed_forward == {
        "kind": "moe",
        "first_k_dense_replace": 1,
        "intermediate_size": 128,
        "moe_intermediate_size": 32,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "router": {
            "scoring": "sigmoid",
            "num_experts_per_tok": 2,
            "norm_topk_prob": True,
            "routed_scaling_factor": 1.0,
            "bias_update_rate": 0.002,
            "sequence_balance_loss": 0.0003,
        },
    }


@pytest.mark.parametrize(
    ("method", "groups"), [("group_limited_greedy", {"n_group": 4, "topk_group": 2}), ("greedy", {})]
)
def test_a_legacy_file_chooses_among_groups_where_it_says_so(
    tmp_path: Path, method: str, groups: dict[str, int]
) -> None:
    text = changed(LEGACY, "  use_gmm: True", f"  n_group: 4\n  topk_group: 2\n  topk_method: {method}")
    router = section(tmp_path, "model", text)["feed_forward"]["router"]
    assert {key: router[key] for key in ("n_group", "topk_group") if key in router} == groups


def test_losses_that_are_not_there_are_said_aloud(tmp_path: Path) -> None:
    text = changed(LEGACY, "aux_loss_types: [expert]", "aux_loss_types: [expert, device]\n  z_loss_factor: 0.01")
    text = changed(text, "aux_loss_factors: [0.0003]", "aux_loss_factors: [0.0003, 0.05]")
    translation = translated(tmp_path, text)
    assert translation.values["model"]["feed_forward"]["router"]["sequence_balance_loss"] == 0.0003
    assert translation.values["model"]["feed_forward"]["router"]["z_loss"] == 0.01
    assert any("the loss of the type device, between devices, is left out" in note for note in translation.notes)


def test_a_bias_that_is_off_does_not_move(tmp_path: Path) -> None:
    text = changed(LEGACY, "balance_via_topk_bias: True", "balance_via_topk_bias: False")
    assert section(tmp_path, "model", text)["feed_forward"]["router"]["bias_update_rate"] == 0


def test_a_legacy_llama_computes_its_width(tmp_path: Path) -> None:
    text = with_lines(
        CORE,
        use_legacy="",
        model="{model_config: {type: LlamaConfig, vocab_size: 512, hidden_size: 96, "
        "num_layers: 2, num_heads: 4, n_kv_heads: 2, seq_length: 64, multiple_of: 32}, arch: {type: LlamaForCausalLM}}",
    )
    model = section(tmp_path, "model", text)
    assert (model["family"], model["feed_forward"]) == ("llama", {"kind": "dense", "intermediate_size": 256})
    assert model["attention"]["num_key_value_heads"] == 2


@pytest.mark.parametrize(
    ("extra", "family"), [("n_kv_heads: 2", "llama"), ("qkv_has_bias: True", "qwen2"), ("n_kv_heads: 4", "llama")]
)
def test_a_legacy_llama_is_several_families(tmp_path: Path, extra: str, family: str) -> None:
    text = with_lines(
        CORE,
        use_legacy="",
        model="{model_config: {type: LlamaConfig, vocab_size: 512, hidden_size: 96, "
        f"num_layers: 2, num_heads: 4, seq_length: 64, intermediate_size: 64, {extra}}}}}",
    )
    assert section(tmp_path, "model", text)["family"] == family


def test_yarn_stretches_max_position_embeddings(tmp_path: Path) -> None:
    text = changed(
        PYNATIVE,
        "  model_type: qwen3\n  architectures: Qwen3ForCausalLM",
        "  model_type: deepseek_v3\n"
        "  position_embedding_type: yarn\n  scaling_factor: 4\n  mscale: 1\n  mscale_all_dim: 1\n"
        "  max_position_embeddings: 256",
    )
    rope = section(tmp_path, "model", text, 8)["attention"]["rope"]
    assert rope["scaling"]["original_max_position_embeddings"] == 256
    assert rope["scaling"]["factor"] == 4


@pytest.mark.parametrize("factor", ["40", "1"])
def test_the_factor_in_the_scale_of_plain_rotation_is_said_aloud(tmp_path: Path, factor: str) -> None:
    text = changed(
        CORE,
        "    model_type: qwen3\n    architectures: [Qwen3ForCausalLM]",
        f"    model_type: deepseek_v3\n    rotary_scaling_factor: {factor}",
    )
    assert ("softmax scale by 1.5896" in translated(tmp_path, text).text) == (factor == "40")


def test_data(tmp_path: Path) -> None:
    assert section(tmp_path, "data", LEGACY) == {
        "train": {
            "sources": [{"path": "/data/a", "weight": 0.3}, {"path": "/data/b", "weight": 0.7}],
            "order": "megatron",
            "sequence_length": 64,
            "split": "98,1,1",
        },
        "tokenizer": "/data/tokenizer.json",
    }


@pytest.mark.parametrize(
    ("config", "train"),
    [
        ("reset_position_ids: True, reset_attention_mask: True", {"documents": "separate"}),
        ("create_compressed_eod_mask: True", {"documents": "separate"}),
        ("eod_mask_loss: True", {"mask_after_end_of_document": True}),
        ("eod_mask_loss: False", {}),
    ],
)
def test_masks(tmp_path: Path, config: str, train: dict[str, Any]) -> None:
    found = section(tmp_path, "data", changed(CORE, "{seq_length: 64", f"{{{config}, seq_length: 64"))["train"]
    assert {key: found[key] for key in ("documents", "mask_after_end_of_document") if key in found} == train


def test_prefixes_without_weights_are_read_equally_often(tmp_path: Path) -> None:
    text = changed(CORE, "['1', /data/a]", "[/data/a, /data/b]")
    assert section(tmp_path, "data", text)["train"]["sources"] == [
        {"path": "/data/a", "weight": None},
        {"path": "/data/b", "weight": None},
    ]


@pytest.mark.parametrize(("config", "seed"), [("seed: 7", 7), ("random_seed: 8", 8), ("split: '1,0,0'", 1234)])
def test_the_seed_is_that_of_the_data(tmp_path: Path, config: str, seed: int) -> None:
    text = changed(CORE, "{seq_length: 64", f"{{{config}, seq_length: 64")
    assert section(tmp_path, "training", text)["seed"] == seed


def test_the_optimizer(tmp_path: Path) -> None:
    assert section(tmp_path, "optimizer", LEGACY) == {
        "type": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "betas": [0.9, 0.95],
        "eps": 1e-8,
    }
    plain = with_lines(CORE, optimizer="{type: AdamW}", runner_wrapper="{use_clip_grad: False}")
    found = section(tmp_path, "optimizer", plain)
    assert (found["weight_decay"], found["max_grad_norm"], found["betas"]) == (0.0, None, [0.9, 0.999])
    assert section(tmp_path, "optimizer", PYNATIVE, 8)["weight_decay"] == 0.01


def test_a_folder_is_searched_for_mindrecord_sets(tmp_path: Path) -> None:
    for name in (
        "b.mindrecord",
        "b.mindrecord.db",
        "a/c.mindrecord0",
        "a/c.mindrecord1",
        "a/c.mindrecord0.db",
        "x.txt",
    ):
        (tmp_path / "sets" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sets" / name).touch()
    loader = f"{{type: MindDataset, dataset_dir: {tmp_path / 'sets'}, shuffle: True}}"
    text = with_lines(CORE, train_dataset=f"{{data_loader: {loader}}}")
    translation = translated(
        tmp_path, text, count_rows=lambda path: {"b.mindrecord": 100, "c.mindrecord": 50}[path.name]
    )
    assert translation.values["training"]["steps"] == 150 // 12
    assert translation.values["data"]["train"]["sources"] == [
        {"kind": "mindrecord", "weight": None, "path": str(tmp_path / "sets" / name)}
        for name in ("a/c.mindrecord", "b.mindrecord")
    ]


def test_a_data_set_without_a_name_is_to_be_named(tmp_path: Path) -> None:
    text = with_lines(CORE, train_dataset="{data_loader: {type: MindDataset, dataset_dir: '', shuffle: False}}")
    assert section(tmp_path, "data", text)["train"]["sources"][0]["path"] == "name-the-data-set.mindrecord"
    assert any("dataset_dir is empty: name the MindRecord set" in note for note in translated(tmp_path, text).notes)


def test_muon(tmp_path: Path) -> None:
    muon = '{type: Muon, weight_decay: 0.1, ns_steps: 6, adamw_betas: [0.9, 0.95], adamw_include: ["*output_layer*"]}'
    found = section(tmp_path, "optimizer", with_lines(PYNATIVE, optimizer=muon), 8)
    assert (found["newton_schulz_steps"], found["betas"]) == (6, [0.9, 0.95])
    assert found["adamw_for"] == ["*.router.*", "head.*"]
    assert "qk_clip" not in found
    clipped = translated(tmp_path, with_lines(PYNATIVE, optimizer="{type: Muon, qk_clip_threshold: 50}"), world_size=8)
    assert "qk_clip" not in clipped.values["optimizer"]
    assert any("clipped with latent attention alone" in note for note in clipped.notes)
    latent = with_lines(LEGACY, optimizer="{type: Muon, qk_clip_threshold: 50}")
    assert translated(tmp_path, latent).values["optimizer"]["qk_clip"] == {"threshold": 50.0}
    segmented = with_lines(PYNATIVE, optimizer="{type: Muon, ns_coefficients: [[[1, 2, 3], 8], [[1, 2, 3], 2]]}")
    assert "changes while it iterates" in faults(tmp_path, segmented)[0]


def test_groups_of_learning_rates(tmp_path: Path) -> None:
    default = "default: {type: ConstantWarmUpLR, learning_rate: 2.e-4, warmup_steps: 5}"
    group = (
        "{type: ConstantWarmUpLR, params: ['embedding.*', output_layer.weight], warmup_steps: 5, learning_rate: 1.e-4}"
    )
    text = with_lines(CORE, lr_schedule="", grouped_lr_schedule=f"{{{default}, grouped: [{group}]}}")
    found = section(tmp_path, "optimizer", text)
    assert found["learning_rate"] == 2e-4
    assert found["groups"] == [
        {"pattern": "embedding.*", "learning_rate_ratio": 0.5},
        {"pattern": "head.*", "learning_rate_ratio": 0.5},
    ]


@pytest.mark.parametrize("theta", [10000.0, 500000.0])
@pytest.mark.parametrize("width", [8, 64, 128])
def test_the_length_that_a_note_gives_for_the_scale_alone_leaves_the_rotation_plain(theta: float, width: int) -> None:
    length = math.ceil(1.1 * 32 * 2 * math.pi * theta)
    plain = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    yarn = yarn_frequencies(plain, theta=theta, factor=40, original_length=length, beta_fast=32, beta_slow=1)
    assert torch.equal(yarn, plain)
