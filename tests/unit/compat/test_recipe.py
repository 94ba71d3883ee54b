"""Parts of the recipe that are there in both: norms that skip a step, growing batches, averages, float16, windows."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.compat.old_yaml import CORE, LEGACY, PYNATIVE, changed, faults, translated
from tests.unit.compat.test_sections import section

WRAPPER = "runner_wrapper: {use_clip_grad: True}"
DYNAMIC = "{type: DynamicLossScaleUpdateCell, loss_scale_value: 65535, scale_factor: 4, scale_window: 100}"


def test_a_step_is_skipped_by_its_norm(tmp_path: Path) -> None:
    text = LEGACY + "use_skip_data_by_global_norm: True\n"
    assert section(tmp_path, "optimizer", text)["skip_above"] == {"kind": "fixed", "norm": 3.0}
    assert section(tmp_path, "resilience", text) == {"max_skipped_steps": 10}
    text += "monitor_config: {global_norm_spike_threshold: 1.5, global_norm_spike_count_threshold: 4}\n"
    assert section(tmp_path, "optimizer", text)["skip_above"] == {"kind": "fixed", "norm": 1.5}
    assert section(tmp_path, "resilience", text) == {"max_skipped_steps": 4}
    for off in (text.replace("norm: True", "norm: False"), LEGACY):
        assert "skip_above" not in section(tmp_path, "optimizer", off)
        assert "resilience" not in translated(tmp_path, off).values


def test_a_batch_grows(tmp_path: Path) -> None:
    text = changed(PYNATIVE, "global_batch_size: 16", "global_batch_size: 32, rampup_batch_size: [16, 8, 160]")
    assert section(tmp_path, "training", text, 4)["global_batch_size"] == {
        "samples": 32,
        "ramp": {"start": 16, "increment": 8, "over": {"samples": 160}},
    }


@pytest.mark.parametrize("ramp", ["[32, 8, 160]", "[16, 7, 160]", "[16, 8]", "8", "[0, 8, 160]"])
def test_a_batch_that_does_not_arrive_is_refused(tmp_path: Path, ramp: str) -> None:
    text = changed(PYNATIVE, "global_batch_size: 16", f"global_batch_size: 32, rampup_batch_size: {ramp}")
    (fault,) = faults(tmp_path, text)
    assert "rampup_batch_size" in fault


@pytest.mark.parametrize(
    ("more", "pma"),
    [
        ("", {"interval_steps": 1000, "count": 10, "weighting": "ema", "alpha": 0.2}),
        (
            ", fused_num: 4, interleave_step: 5, fused_algo: sma, ema_alpha: 0.5",
            {"interval_steps": 5, "count": 4, "weighting": "mean", "alpha": 0.5},
        ),
    ],
)
def test_pma_takes_averages_as_weights(tmp_path: Path, more: str, pma: dict[str, Any]) -> None:
    text = changed(LEGACY, "optimizer: {type: AdamW,", f"optimizer: {{type: PmaAdamW{more},")
    assert section(tmp_path, "averages", text) == {"pma": pma}
    assert section(tmp_path, "optimizer", text)["type"] == "adamw"
    assert "averages" not in translated(tmp_path, LEGACY).values


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("1.0", {"initial_scale": 1.0, "growth_steps": 2**31 - 1}),
        (DYNAMIC, {"initial_scale": 65535, "growth_factor": 4, "growth_steps": 100, "backoff_factor": 0.25}),
    ],
)
def test_float16_has_a_loss_scale(tmp_path: Path, scale: str, expected: dict[str, Any]) -> None:
    text = changed(LEGACY, "compute_dtype: bfloat16", "compute_dtype: float16")
    text = changed(text, WRAPPER, f"runner_wrapper: {{use_clip_grad: True, scale_sense: {scale}}}")
    assert section(tmp_path, "training", text)["precision"] == {"kind": "fp16", **expected}
    assert section(tmp_path, "training", changed(text, "float16", "bfloat16"))["precision"] == "bf16"


def test_parameters_are_of_the_type_that_is_written(tmp_path: Path) -> None:
    text = changed(CORE, "model_config:", "model_config:\n    params_dtype: bfloat16")
    assert section(tmp_path, "training", text)["precision"] == {"kind": "bf16", "parameters": "bf16"}


def test_a_window_counts_the_positions_to_the_left(tmp_path: Path) -> None:
    text = changed(CORE, "model_config:", "model_config:\n    window_size: [127, 0]\n    window_attn_skip_freq: 4")
    attention = section(tmp_path, "model", text)["attention"]
    assert attention["window"] == {"kind": "sliding", "size": 128, "full_every": 4}
    for wrong in ("[127, 3]", "[-1, 0]"):
        assert "window_size" in faults(tmp_path, text.replace("[127, 0]", wrong))[0]
    assert "window" not in section(tmp_path, "model", text.replace("[127, 0]", "[-1, -1]"))["attention"]


def test_what_is_watched_and_profiled_is_so_here(tmp_path: Path) -> None:
    text = LEGACY + (
        "monitor_config: {monitor_on: True, local_norm_format: both, weight_state_format: null, target: ['.*'], "
        "optimizer_state_format: log, max_attention_logit_format: tensorboard}\n"
        "profile: True\nprofile_start_step: 5\nprofile_stop_step: 8\nprofile_rank_ids: [0, 3]\n"
    )
    assert section(tmp_path, "monitor", text) == {
        "log_every_steps": 1,
        "measure": ["ranks", "layers", "optimizer_state"],
        "watches_attention_logits": True,
        "profile": {"first_step": 5, "num_steps": 4, "ranks": [0, 3], "memory": True},
    }
    assert section(tmp_path, "monitor", LEGACY + "monitor_config: {local_norm_format: both}\n") == {
        "log_every_steps": 1
    }
    text = PYNATIVE + "profiler: {enable_profiling: True, start_step: 2, end_step: 500, profile_cpu: True}\n"
    assert section(tmp_path, "monitor", text, 4)["profile"] == {
        "first_step": 2,
        "num_steps": 100,
        "ranks": [0],
        "memory": False,
    }
