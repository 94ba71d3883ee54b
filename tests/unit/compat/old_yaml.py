"""Small MindFormers files of the three generations, and what becomes of them."""

from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.compat.batch import CountRows
from firstlight.compat.translation import Translation, not_counted, translate
from firstlight.config.load import Loaded, load_source
from firstlight.config.source import Source

LEGACY = """\
run_mode: train
use_parallel: True
seed: 1234
model:
  arch: {type: DeepseekV3ForCausalLM}
  model_config:
    type: DeepseekV3Config
    vocab_size: 512
    hidden_size: 64
    num_layers: 7
    num_heads: 4
    intermediate_size: 128
    q_lora_rank: 32
    kv_lora_rank: 16
    qk_nope_head_dim: 16
    qk_rope_head_dim: 8
    v_head_dim: 16
    seq_length: 64
    mtp_depth: 1
    offset: 0
    compute_dtype: bfloat16
    extend_method: "None"
moe_config:
  expert_num: 8
  num_experts_chosen: 2
  shared_expert_num: 1
  moe_intermediate_size: 32
  first_k_dense_replace: 1
  use_gating_sigmoid: True
  balance_via_topk_bias: True
  topk_bias_update_rate: 0.002
  aux_loss_types: [expert]
  aux_loss_factors: [0.0003]
  use_gmm: True
train_dataset:
  data_loader:
    type: BlendedMegatronDatasetDataLoader
    sizes: [1000, 0, 0]
    config:
      seed: 1234
      seq_length: 64
      split: "98, 1, 1"
      data_path: ['0.3', /data/a, '0.7', /data/b]
runner_config: {epochs: 2, batch_size: 3}
optimizer: {type: AdamW, betas: [0.9, 0.95], weight_decay: 0.01}
lr_schedule: {type: ConstantWarmUpLR, learning_rate: 1.e-3, warmup_ratio: 0.1, total_steps: -1}
runner_wrapper: {use_clip_grad: True}
parallel_config:
  data_parallel: 4
  model_parallel: 2
  pipeline_stage: 2
  expert_parallel: 2
  micro_batch_num: 5
parallel: {enable_parallel_optimizer: True}
callbacks:
  - type: TopkBiasBalanceCallback
  - {type: CheckpointMonitor, save_checkpoint_steps: 50, keep_checkpoint_max: 2}
"""

CORE = """\
run_mode: train
use_legacy: False
use_parallel: True
seed: 1234
model:
  model_config:
    model_type: qwen3
    architectures: [Qwen3ForCausalLM]
    vocab_size: 512
    hidden_size: 64
    num_hidden_layers: 8
    num_attention_heads: 4
    num_key_value_heads: 2
    head_dim: 16
    intermediate_size: 128
    max_position_embeddings: 64
    seq_length: 64
    compute_dtype: bfloat16
train_dataset:
  data_loader:
    type: BlendedMegatronDatasetDataLoader
    sizes: [1000, 0, 0]
    config: {seq_length: 64, data_path: ['1', /data/a]}
runner_config: {epochs: 1, batch_size: 2, gradient_accumulation_steps: 3}
optimizer: {type: AdamW, betas: [0.9, 0.95], eps: 1.e-8}
lr_schedule: {type: ConstantWarmUpLR, learning_rate: 1.e-3, warmup_steps: 5}
runner_wrapper: {use_clip_grad: True}
parallel_config: {data_parallel: 2, model_parallel: 2}
"""

PYNATIVE = """\
training: {steps: 100, local_batch_size: 2, global_batch_size: 16, max_norm: 1.0, seed: 1234}
parallelism: {tensor_parallel: 1, pipeline_parallel: 1}
optimizer: {type: AdamW}
lr_scheduler: {type: ConstantWarmUpLR, learning_rate: 1.e-5, warmup_ratio: 0.1}
model:
  model_type: qwen3
  architectures: Qwen3ForCausalLM
  vocab_size: 512
  hidden_size: 64
  num_hidden_layers: 8
  num_attention_heads: 4
  num_key_value_heads: 2
  head_dim: 16
  intermediate_size: 128
  seq_length: 64
train_dataset:
  dataloader:
    type: BlendedMegatronDatasetDataLoader
    sizes: [1000, 0, 0]
    config: {data_path: ['1', /data/a]}
"""


def with_lines(text: str, **sections: str) -> str:
    """The text with `section`'s line or block replaced by `section: value`; empty takes it out."""
    kept: list[str] = []
    current = ""
    for line in text.splitlines():
        current = line.partition(":")[0] if not line.startswith((" ", "-")) else current
        if current not in sections:
            kept.append(line)
    return "\n".join([*kept, *(f"{name}: {value}" for name, value in sections.items() if value)]) + "\n"


def changed(text: str, old: str, new: str) -> str:
    """The text with `new` in the only place of `old`."""
    assert text.count(old) == 1, f"{old!r} is there {text.count(old)} times"
    return text.replace(old, new)


def translated(
    folder: Path, text: str, *, world_size: int | None = None, count_rows: CountRows = not_counted
) -> Translation:
    """What old.yaml with this text is here."""
    path = folder / "old.yaml"
    path.write_text(text, encoding="utf-8")
    return translate(path, world_size=world_size, count_rows=count_rows)


def valid(translation: Translation, *, world_size: int | None = None) -> Loaded:
    """The configuration, held to every rule."""
    loaded = load_source(Source(values=translation.values, origins=dict(translation.origins)), "old.yaml")
    loaded.require_rules(world_size=world_size or translation.world_size or 1)
    return loaded


def faults(folder: Path, text: str) -> list[str]:
    """The reasons for which it is refused."""
    with pytest.raises(InputError) as caught:
        translated(folder, text)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]
