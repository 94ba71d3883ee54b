"""Every fault is named, with the key, the value and the place, and all of them at once."""

from pathlib import Path

import pytest

from firstlight.config.model import MoeFeedForward, MultiHeadLatentAttention
from firstlight.config.router import SigmoidRouter
from firstlight.config.schedule import ConstantSchedule
from tests.runs import TINY_YAML
from tests.unit.config.yaml_file import changed, faults, loaded, place

GQA = "attention: {kind: gqa, num_attention_heads: 4, num_key_value_heads: 2}"
MLA = TINY_YAML[TINY_YAML.index("attention:") : TINY_YAML.index("  feed_forward:")].rstrip()

SCHEDULES = (
    "constant, linear, cosine, cosine_with_restarts, warm_restarts, cosine_annealing, polynomial, "
    "warmup_stable_decay, deepseek_v3 or piecewise"
)


def test_a_file_becomes_a_typed_configuration(tmp_path: Path) -> None:
    config = loaded(tmp_path).config
    assert isinstance(config.model.attention, MultiHeadLatentAttention)
    assert isinstance(config.model.feed_forward, MoeFeedForward)
    assert config.optimizer.learning_rate == 0.001
    assert config.lr_scheduler == ConstantSchedule()
    assert config.optimizer.betas == (0.9, 0.95)
    assert config.parallelism.data_parallel_shard == -1


def test_paths_are_absolute_against_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    config = loaded(tmp_path, overrides=["data.tokenizer=~/tokenizer.json"]).config
    assert config.training.output_folder == tmp_path / "elsewhere" / "out"
    assert config.data.train.sources[0].path == tmp_path / "elsewhere" / "data" / "tiny_text_document"
    assert config.data.tokenizer == Path.home() / "tokenizer.json"


@pytest.mark.parametrize(
    ("old", "new", "key", "nearest"),
    [
        ("checkpoint: {", "checkpiont: {", "checkpiont", "checkpoint"),
        ("evaluate_samples", "evaluate_sample", "training.evaluate_sample", "evaluate_samples"),
        ("q_lora_rank", "q_lora_rnk", "model.attention.q_lora_rnk", "q_lora_rank"),
        ("first_k_dense", "first_dense", "model.feed_forward.first_dense_replace", "first_k_dense_replace"),
        ("{num_layers: 1}", "{num_layer: 1}", "model.multi_token_prediction.num_layer", "num_layers"),
        ("document}]", "document, wieght: 2}]", "data.train.sources.0.wieght", "weight"),
        ("- name: tiny", "- {name: a, path: b}\n    - nmae: tiny", "data.evaluate.1.nmae", "name"),
        ("per_tok: 2}", "per_tok: 2, n_groups: 1}", "model.feed_forward.router.n_groups", "n_group"),
        ("monitor: {", "lr_scheduler: {type: cosine, warmup: 5}\nmonitor: {", "lr_scheduler.warmup", "warmup_steps"),
        (
            "v_head_dim: 8",
            "v_head_dim: 8\n    rope: {scaling: {kind: llama3, factor: 2, low_freq: 1}}",
            "model.attention.rope.scaling.low_freq",
            "low_freq_factor",
        ),
        (MLA, GQA.replace("value_heads: 2", "value_heads: 2, head_dm: 8"), "model.attention.head_dm", "head_dim"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_and_its_place(
    tmp_path: Path, old: str, new: str, key: str, nearest: str
) -> None:
    text = changed(old, new)
    line = place(text, f"{key.rpartition('.')[2]}: ")
    assert f"{key} is not a known key; did you mean {nearest}? ({line})" in faults(tmp_path, text)


def test_a_key_like_no_other_is_answered_with_those_there_are(tmp_path: Path) -> None:
    text = changed("{save_every_steps: 2, ", "{xyz: 2, ")
    known = "save_every_steps, mean_hours_between_failures, save_every_minutes, keep_last, keep_every_steps, "
    known += "asynchronous, export_every_steps, export_dtype, mindformers_files, copy_to, key_file"
    expected = f"checkpoint.xyz is not a known key; known keys here: {known} ({place(text, 'xyz')})"
    assert faults(tmp_path, text) == [expected]


def test_the_keys_of_a_choice_are_those_of_its_kind(tmp_path: Path) -> None:
    text = changed(MLA, GQA.replace("num_key_value_heads: 2", "xyz: 2"))
    (fault,) = faults(tmp_path, text)
    assert "known keys here: kind, num_attention_heads, num_key_value_heads, head_dim, rope" in fault
    text = changed("v_head_dim: 8", "v_head_dim: 8\n    xyz: 2")
    (fault,) = faults(tmp_path, text)
    assert "known keys here: kind, num_attention_heads, q_lora_rank, kv_lora_rank" in fault


def test_a_key_of_another_choice_is_not_taken_for_a_misspelling(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, TINY_YAML + "lr_scheduler: {type: constant, decay_steps: 5}\n")
    assert fault.startswith("lr_scheduler.decay_steps is not a known key")
    assert "warmup_stable_decay" in fault
    assert "did you mean" not in fault


def test_a_router_is_the_sigmoid_one_where_nothing_is_said(tmp_path: Path) -> None:
    for said in ("", ", scoring: sigmoid"):
        feed_forward = loaded(tmp_path, changed("per_tok: 2}", f"per_tok: 2{said}}}")).config.model.feed_forward
        assert isinstance(feed_forward, MoeFeedForward)
        assert isinstance(feed_forward.router, SigmoidRouter)
    (fault,) = faults(tmp_path, changed("per_tok: 2}", "per_tok: 2, scoring: softmax, sequence_balance_loss: 0.1}"))
    # Not taken and then ignored: the key is another router's.
    assert fault.startswith("model.feed_forward.router.sequence_balance_loss is not a known key of softmax; it belongs")
    (fault,) = faults(tmp_path, changed("per_tok: 2}", "per_tok: 2, scoring: hash}"))
    expected = "model.feed_forward.router.scoring = 'hash' is not known; use sigmoid, softmax or topk_softmax"
    assert fault.startswith(expected)


def test_a_value_of_the_wrong_kind_is_shown_with_what_would_do(tmp_path: Path) -> None:
    text = changed("hidden_size: 32", "hidden_size: big")
    (fault,) = faults(tmp_path, text)
    assert fault.startswith("model.hidden_size = 'big': input should be a valid integer")
    assert fault.endswith(f"({place(text, 'hidden_size')})")


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("learning_rate: 1e-3", "learning_rate: -1e-3", "optimizer.learning_rate = -0.001: input should be greater"),
        ("learning_rate: 1e-3", "learning_rate: .nan", "optimizer.learning_rate = nan: input should be a finite"),
        ("  steps: 4", "  steps: 0", "training.steps = 0: input should be greater than or equal to 1"),
        ("  steps: 4", "  steps: 2.5", "training.steps = 2.5: input should be a valid integer"),
        ("family: deepseek_v3", "family: deepseek", "model.family = 'deepseek': input should be 'deepseek_v2', 'd"),
        ("name: tiny", "name: a b", "data.evaluate.0.name = 'a b': string should match pattern"),
        ("[console, jsonl]", "[console, csv]", "monitor.sinks.1 = 'csv': input should be 'console', 'jsonl', "),
        ("[{path: data/tiny_text_document}]", "[]", "data.train.sources: is empty; name at least one data set"),
        ("qk_rope_head_dim: 8", "qk_rope_head_dim: 7", "model.attention: qk_rope_head_dim = 7 is odd"),
        ("per_tok: 2}", "per_tok: 5}", "model.feed_forward: router.num_experts_per_tok = 5 is more than the 4 experts"),
        ("per_tok: 2}", "per_tok: 2, n_group: 3}", "model.feed_forward: router.n_group = 3 does not divide n_routed"),
        ("per_tok: 2}", "per_tok: 2, topk_group: 2}", "model.feed_forward: router.topk_group = 2 is more than router"),
        ("    intermediate_size: 64\n", "", "model.feed_forward: first_k_dense_replace = 1 needs intermediate_size"),
        (MLA, GQA.replace("heads: 2", "heads: 3"), "model.attention: num_key_value_heads = 3 does not divide num_att"),
        (
            "monitor: {",
            "parallelism: {data_parallel_shard: 0}\nmonitor: {",
            "parallelism: data_parallel_shard = 0; use",
        ),
    ],
)
def test_a_section_checks_itself(tmp_path: Path, old: str, new: str, fault: str) -> None:
    (found,) = faults(tmp_path, changed(old, new))
    assert found.startswith(fault)
    assert "(run.yaml:" in found


def test_all_faults_are_in_one_message(tmp_path: Path) -> None:
    text = changed("hidden_size: 32", "hidden_size: -1")
    text = changed("  type: adamw", "  typ: adamw", text)
    text = changed("n_routed_experts", "routed_experts", text)
    text = changed("  output_folder: out\n", "", text)
    found = faults(tmp_path, text, ["checkpoint.keep_lst=3"])
    assert sorted(fault.split(":")[0].split(" ")[0] for fault in found) == [
        "checkpoint.keep_lst",
        "model.feed_forward.n_routed_experts",
        "model.feed_forward.routed_experts",
        "model.hidden_size",
        "optimizer.typ",
        "training.output_folder",
    ]
    assert f"training.output_folder is missing ({place(text, 'training:')})" in found


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    text = changed("optimizer:\n  type: adamw\n  learning_rate: 1e-3\n", "")
    assert faults(tmp_path, text) == ["optimizer is missing"]


def test_a_faulty_item_is_one_fault(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, overrides=["data.train.sources.0.weight=0"])
    assert fault.startswith("data.train.sources.0.weight = 0: input should be greater than 0")


@pytest.mark.parametrize(
    ("text", "key", "choices"),
    [
        (
            TINY_YAML + "lr_scheduler: {warmup_steps: 5}\n",
            "lr_scheduler.type",
            SCHEDULES,
        ),
        (changed("    kind: mla\n", ""), "model.attention.kind", "gqa or mla"),
    ],
)
def test_a_missing_tag_is_asked_for(tmp_path: Path, text: str, key: str, choices: str) -> None:
    (fault,) = faults(tmp_path, text)
    assert fault.startswith(f"{key} is missing; use {choices} (")


def test_an_unknown_tag_is_answered_with_those_there_are(tmp_path: Path) -> None:
    text = TINY_YAML + "lr_scheduler:\n  warmup_steps: 5\n  type: cosin\n"
    (fault,) = faults(tmp_path, text)
    expected = f"lr_scheduler.type = 'cosin' is not known; use {SCHEDULES}"
    assert fault == f"{expected} ({place(text, 'cosin')})"


def test_the_heads_of_grouped_attention_follow_from_its_sizes(tmp_path: Path) -> None:
    attention = loaded(tmp_path, changed(MLA, "attention: {kind: gqa, num_attention_heads: 4}")).config.model.attention
    assert attention.kind == "gqa"
    assert (attention.num_key_value_heads, attention.head_dim) == (4, 8)


def test_what_nobody_wrote_is_not_shown_as_a_value(tmp_path: Path) -> None:
    found = faults(tmp_path, changed(MLA, "attention: {kind: gqa, head_dim: 8}"))
    assert found[0].startswith("model.attention.num_attention_heads is missing")
    assert not any("None" in fault for fault in found)


def test_lengths_and_scheduled_numbers_are_named_as_written(tmp_path: Path) -> None:
    text = TINY_YAML + ("lr_scheduler: {type: linear, warmup_steps: -1, decay_steps: {tokens: 0}}\n")
    text = text.replace(
        "learning_rate: 1e-3", "learning_rate: 1e-3\n  weight_decay: {value: -1, schedule: {type: lin}}"
    )
    shown = [fault.partition(": ")[0].partition(" is not")[0] for fault in faults(tmp_path, text)]
    assert shown == [
        "optimizer.weight_decay.value = -1",
        "optimizer.weight_decay.schedule.type = 'lin'",
        "lr_scheduler.warmup_steps = -1",
        "lr_scheduler.decay_steps.tokens = 0",
    ]


def test_optimizer_and_length_of_another_kind(tmp_path: Path) -> None:
    text = TINY_YAML + "lr_scheduler: {type: cosine, warmup_steps: {tokens: 64}}\n"
    config = loaded(tmp_path, text.replace("type: adamw", "type: muon")).config
    assert config.optimizer.type == "muon"
    assert config.lr_scheduler.model_dump()["warmup_steps"] == {"tokens": 64}
