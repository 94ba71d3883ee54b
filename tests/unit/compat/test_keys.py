"""Every key has a row: unknown ones name the nearest, contradictions and what there is not are refused, all at once."""

from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.compat.translation import translate
from firstlight.config.source import read_source
from tests.unit.compat.old_yaml import CORE, LEGACY, PYNATIVE, changed, faults, translated, valid


@pytest.mark.parametrize("text", [LEGACY, CORE, PYNATIVE], ids=["legacy", "core", "pynative"])
def test_a_small_file_of_each_generation_is_valid(tmp_path: Path, text: str) -> None:
    translation = translated(tmp_path, text)
    valid(translation, world_size=translation.world_size or 8)


@pytest.mark.parametrize(
    ("text", "old", "new", "what"),
    [
        (LEGACY, "model_parallel: 2", "model_paralel: 2", "parallel_config.model_paralel is not a key of MindFormers"),
        (LEGACY, "model_parallel: 2", "model_paralel: 2", "did you mean model_parallel? (old.yaml:"),
        (LEGACY, "hidden_size: 64", "hiden_size: 64", "did you mean hidden_size? (old.yaml:9)"),
        (
            LEGACY,
            "expert_num: 8",
            "expert_num: 8\n  lr_end: 1",
            "it is a key of grouped_lr_schedule.default and lr_sch",
        ),
        (LEGACY, "runner_config:", "runer_config:", "did you mean runner_config? (old.yaml:"),
        (LEGACY, "type: CheckpointMonitor", "type: CheckpontMonitor", "did you mean CheckpointMonitor? (old.yaml:"),
        (PYNATIVE, "local_batch_size", "local_batchsize", "did you mean local_batch_size? (old.yaml:1)"),
        (CORE, "type: AdamW", "type: Lamb", "optimizer.type = Lamb is not there; AdamW and Muon are (old.yaml:"),
        (CORE, "model_type: qwen3", "model_type: bloom", "model_type = bloom is no model that is there; those are"),
        (
            CORE,
            "hidden_size: 64",
            "hidden_size: 64\n    hidden_dropout: 0.1",
            "hidden_dropout = 0.1: there is no dropout",
        ),
        (CORE, "hidden_size: 64", "hidden_size: much", "hidden_size = much is no number"),
        (
            CORE,
            "num_hidden_layers: 8",
            "num_hidden_layers: 8\n    num_layers: 6",
            "num_hidden_layers = 8 (old.yaml:11) and model.model_config.num_layers = 6 (old.yaml:12) say the same",
        ),
        (CORE, "config: {seq_length: 64", "config: {seq_length: 32", "say the same thing differently"),
        (
            LEGACY,
            "TopkBiasBalanceCallback",
            "TopkBiasBalanceCallback\n    expert_num: 4",
            "say the same thing differently",
        ),
        (LEGACY, "      seed: 1234", "      seed: 1\n      random_seed: 2", "random_seed = 2 contradicts seed = 1"),
        (
            CORE,
            "{seq_length: 64",
            "{seq_length: 64, reset_position_ids: True",
            "documents are apart in both or in none",
        ),
        (CORE, "[Qwen3ForCausalLM]", "[LlamaForCausalLM]", "architectures says llama and model_type says qwen3"),
        (LEGACY, "sizes: [1000, 0, 0]", "sizes: [10, 0, 0]", "10 samples do not fill one global batch of 60"),
        (LEGACY, "offset: 0", "offset: [1, 1]", "make -2"),
        (LEGACY, "offset: 0", "offset: [1, 1, 1]", "is for 3 stages, and there are 2 x 1"),
        (LEGACY, "  use_gating_sigmoid: True", "  use_gating_sigmoid: False", "whose router is sigmoid"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, text: str, old: str, new: str, what: str) -> None:
    assert any(what in fault for fault in faults(tmp_path, changed(text, old, new)))


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    text = changed(changed(CORE, "type: AdamW", "type: Lamb"), "hidden_size: 64", "hiden_size: 64")
    assert len(faults(tmp_path, text)) == 2


@pytest.mark.parametrize("mode", ["predict", "eval", "export"])
def test_what_does_not_train_is_refused_for_that_alone(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "old.yaml"
    path.write_text(changed(CORE, "run_mode: train", f"run_mode: {mode}\nno_such_key: 1"))
    with pytest.raises(InputError, match=f"run_mode = {mode} does not train; only train and finetune"):
        translate(path)


def test_adapters_and_text_loaders_of_finetuning_are_refused(tmp_path: Path) -> None:
    text = changed(CORE, "    vocab_size: 512", "    vocab_size: 512\n    pet_config: {pet_type: lora, lora_rank: 8}")
    text = changed(text, "    sizes: [1000, 0, 0]", "    sizes: [1000, 0, 0]\n    load_func: load_dataset")
    assert len(faults(tmp_path, text)) == 2
    assert all("finetuning" in fault or "huggingface" in fault for fault in faults(tmp_path, text))


def test_other_yaml_is_no_mindformers_file(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("model: {family: llama}\n")
    with pytest.raises(InputError, match="is no MindFormers file"):
        translate(path)


def test_a_file_inherits_mappings_key_by_key_and_lists_whole(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(LEGACY)
    text = "base_config: base.yaml\nmodel: {model_config: {hidden_size: 32}}\ncallbacks: [{type: MFLossMonitor}]\n"
    translation = translated(tmp_path, text)
    assert translation.values["model"]["hidden_size"] == 32
    assert translation.values["model"]["num_hidden_layers"] == 7
    assert translation.values["checkpoint"] == {"save_every_steps": 0}
    assert translation.origins[("model", "hidden_size")] == "old.yaml:2"
    assert translation.origins[("model", "vocab_size")].startswith("base.yaml:")
    assert set(translation.old_texts) == {"old.yaml", "base.yaml"}


def test_a_file_that_inherits_from_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("base_config: old.yaml\nrun_mode: train\n")
    with pytest.raises(InputError, match="leads back to this file"):
        translate(path)


def test_a_missing_base_is_named(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("base_config: there.yaml\nrun_mode: train\n")
    with pytest.raises(InputError, match="there.yaml does not exist"):
        translate(path)


def test_the_folder_of_a_published_model_fills_in_what_the_file_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text(
        '{"hidden_size": 96, "rms_norm_eps": 1e-5, "transformers_version": "4"}'
    )
    text = changed(CORE, "    hidden_size: 64\n", "") + f"pretrained_model_dir: {tmp_path / 'hub'}\n"
    model = translated(tmp_path, text).values["model"]
    assert (model["hidden_size"], model["rms_norm_eps"], model["vocab_size"]) == (96, 1e-5, 512)
    assert "from_hf" not in model


@pytest.mark.parametrize(
    ("text", "old", "new", "what"),
    [
        (
            CORE,
            "{seq_length: 64",
            "{random_seed: 7, seq_length: 64",
            "random_seed = 7 is the seed here; MindFormers does not",
        ),
        (LEGACY, "  - type: TopkBiasBalanceCallback\n", "", "MindFormers would leave it alone"),
        (CORE, "model_parallel: 2", "model_parallel: 2, micro_batch_num: 4", "micro_batch_num counts for nothing"),
        (LEGACY, "use_gmm: True", "capacity_factor: 1.5", "no token is dropped"),
        (
            LEGACY,
            "offset: 0",
            "offset: 0\n    use_past: False",
            "used for inference only: model.model_config.use_past = False",
        ),
        (CORE, "use_parallel: True", "use_parallel: False", "use_parallel is off: one process"),
    ],
)
def test_what_is_left_out_or_done_otherwise_is_said_aloud(
    tmp_path: Path, text: str, old: str, new: str, what: str
) -> None:
    said = " ".join(translated(tmp_path, changed(text, old, new)).text.replace("\n#", " ").split())
    assert what in said


def test_a_key_may_be_repeated_with_the_same_value_only(tmp_path: Path) -> None:
    text = changed(CORE, "    vocab_size: 512", "    vocab_size: 512\n    qk_layernorm: True\n    qk_layernorm: True")
    assert translated(tmp_path, text).values["model"]["attention"]["qk_norm"] == "per_head"
    with pytest.raises(InputError, match=r"qk_layernorm is there twice, with different values \(old.yaml:10 and 11\)"):
        translated(tmp_path, changed(text, "True\n    qk_layernorm: True", "True\n    qk_layernorm: False"))


def test_the_text_is_the_values(tmp_path: Path) -> None:
    translation = translated(tmp_path, LEGACY)
    path = tmp_path / "new.yaml"
    path.write_text(translation.text)
    assert read_source(path).values == translation.values
