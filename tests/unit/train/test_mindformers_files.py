"""A run leaves its weights where MindFormers has them, in files that are its checkpoints' weights to the bit."""

import json

import pytest
from safetensors.torch import load_file

from tests.runs import TinyRun, make_tiny_run

pytestmark = pytest.mark.slow

FILES = "checkpoint.mindformers_files={prefix: ds, steps_per_epoch: 3%s}"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    return make_tiny_run(tmp_path_factory.mktemp("files"))


def test_the_newest_weights_are_in_mindformers_files(run: TinyRun) -> None:
    done = run.train(FILES % "", "checkpoint.save_every_steps=1")
    assert done.returncode == 0, done.stderr
    folder = run.output / "checkpoint" / "rank_0"
    assert sorted(path.name for path in folder.iterdir()) == [
        "ds_rank_0-1_3.safetensors",
        "ds_rank_0-2_1.safetensors",
        "meta.json",
    ]
    assert json.loads((folder / "meta.json").read_text()) == {
        "last_epoch": 2,
        "last_step": 1,
        "last_ckpt_file": "ds_rank_0-2_1.safetensors",
    }
    # MindFormers' folder of rank_N folders is a format that convert reads: by meta.json, the newest.
    for origin, target in (("out/checkpoint", "from-files"), ("out", "from-run")):
        converted = run.firstlight("convert", origin, target, "--config", "run.yaml")
        assert converted.returncode == 0, converted.stderr
    one, other = (load_file(next((run.folder / name).glob("*.safetensors"))) for name in ("from-files", "from-run"))
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def test_large_weights_are_not_written_and_it_is_said(run: TinyRun) -> None:
    done = run.train(FILES % ", up_to_gigabytes: 1e-6", "training.output_folder=large")
    assert done.returncode == 0, done.stderr
    assert "are more than checkpoint.mindformers_files.up_to_gigabytes = 1e-06" in done.stderr
    assert not (run.folder / "large" / "checkpoint").exists()


def test_a_model_that_mindformers_does_not_name_is_refused(run: TinyRun) -> None:
    # The families that are translated are all named; norms in a sandwich are not.
    overrides = ["model.family=glm4", "model.norms=sandwich", "model.multi_token_prediction=null"]
    attention = "{kind: gqa, num_attention_heads: 2, num_key_value_heads: 2, head_dim: 16, bias: qkv, "
    overrides += [f"model.attention={attention}rope: {{layout: interleaved, partial_rotary_factor: 0.5}}}}"]
    overrides += ["model.feed_forward={kind: dense, intermediate_size: 32}", "training.output_folder=glm"]
    done = run.train(FILES % "", *overrides)
    assert done.returncode == 2, done.stderr
    assert "MindFormers' names for a glm4 model with norms = sandwich are not known" in done.stderr
