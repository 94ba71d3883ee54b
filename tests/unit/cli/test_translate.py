"""MindFormers files on the command line: translated, checked, trained from, and kept beside the run."""

from pathlib import Path

import pytest

from firstlight.config.load import load
from tests.runs import TinyRun, make_tiny_run
from tests.unit.cli.command import ask

OLD_YAML = """\
run_mode: train
use_legacy: False
use_parallel: False
output_dir: out
seed: 1234
model:
  model_config:
    model_type: deepseek_v3
    architectures: [DeepseekV3ForCausalLM]
    vocab_size: 300
    hidden_size: 32
    num_hidden_layers: 2
    num_attention_heads: 2
    intermediate_size: 64
    q_lora_rank: 16
    kv_lora_rank: 16
    qk_nope_head_dim: 8
    qk_rope_head_dim: 8
    v_head_dim: 8
    seq_length: 32
    first_k_dense_replace: 1
    n_routed_experts: 4
    num_experts_per_tok: 2
    moe_intermediate_size: 16
    n_group: 1
    rotary_scaling_factor: 1
    compute_dtype: float32
train_dataset:
  data_loader:
    type: BlendedMegatronDatasetDataLoader
    sizes: [13, 0, 0]
    config: {seed: 7, seq_length: 32, data_path: ['1', data/tiny_text_document]}
processor: {tokenizer: {type: LlamaTokenizerFast, tokenizer_file: tokenizer.json}}
runner_config: {epochs: 1, batch_size: 2, gradient_accumulation_steps: 2}
optimizer: {type: AdamW, betas: [0.9, 0.95]}
lr_schedule: {type: ConstantWarmUpLR, learning_rate: 1.e-3, warmup_steps: 2}
runner_wrapper: {use_clip_grad: True}
callbacks:
  - {type: TopkBiasBalanceCallback}
  - {type: CheckpointMonitor, save_checkpoint_steps: 2, prefix: tiny}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A folder with data and old.yaml."""
    made = make_tiny_run(tmp_path_factory.mktemp("translate"))
    (made.folder / "old.yaml").write_text(OLD_YAML)
    return made


def test_what_is_printed_is_a_configuration_of_ours(run: TinyRun) -> None:
    answer = ask(run.folder, "translate", "old.yaml")
    assert (answer.exit_code, answer.err) == (0, "")
    (run.folder / "new.yaml").write_text(answer.out)
    config = load(run.folder / "new.yaml").config
    assert (config.training.steps, config.training.global_batch_size, config.training.seed) == (3, 4, 7)
    assert ask(run.folder, "config", "check", "new.yaml").out == "new.yaml is valid for 1 process(es)\n"


def test_an_old_file_is_checked_and_shown_as_it_is(run: TinyRun) -> None:
    assert ask(run.folder, "config", "check", "old.yaml").out == "old.yaml is valid for 1 process(es)\n"
    shown = ask(run.folder, "config", "show", "--config", "old.yaml", "--set", "training.steps=9")
    assert "steps: 9\n" in shown.out


def test_a_wrong_key_is_wrong_input(run: TinyRun) -> None:
    (run.folder / "wrong.yaml").write_text(OLD_YAML.replace("gradient_accumulation_steps", "gradient_accumulation"))
    for verb in (("translate",), ("config", "check"), ("train",)):
        answer = ask(run.folder, *verb, "wrong.yaml")
        assert answer.exit_code == 2
        assert "did you mean gradient_accumulation_steps? (wrong.yaml:34)" in answer.message


def test_a_fault_of_the_translation_is_said_with_the_place_in_the_old_file(run: TinyRun) -> None:
    answer = ask(run.folder, "config", "check", "old.yaml", "--set", "model.max_position_embeddings=16")
    assert answer.exit_code == 2
    assert "data.train.sequence_length = 32" in answer.message
    assert "(old.yaml:20)" in answer.message


def test_two_files_are_one_too_many(run: TinyRun) -> None:
    answer = ask(run.folder, "config", "check", "old.yaml", "--config", "run.yaml")
    assert answer.exit_code == 2
    assert "name two files" in answer.err


def test_a_run_from_an_old_file_keeps_it_with_its_translation(run: TinyRun, tmp_path: Path) -> None:
    done = run.firstlight("train", "old.yaml", "--set", f"training.output_folder={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "translated: the seed is that of the data's order, 7" in done.stderr
    assert (tmp_path / "mindformers-old.yaml").read_text() == OLD_YAML
    kept = (tmp_path / "translated.yaml").read_text()
    assert kept == ask(run.folder, "translate", "old.yaml").out
    assert load(tmp_path / "config.yaml").config.training.steps == 3
    again = run.firstlight("train", "old.yaml", "--set", f"training.output_folder={tmp_path}")
    assert "nothing to do" in again.stderr
