"""The single-node practice of MindFormers' pretraining guide, line by line, on WikiText-2 with DeepSeek-V3's tokenizer.

The model of a billion parameters is cut by flags of `run_mindformer.py`, so that two cores do 20 steps in minutes;
its layout stays: eight workers, data, tensors, pipeline and experts by two each.
"""

import re
import shutil
from pathlib import Path

import pytest

from firstlight.compat.home_folder import make_home
from tests.unit.cli.test_mindformers import start

DATA = Path(__file__).parents[3] / "shared" / "data"
TEXT = DATA / "wikitext-2" / "wiki.valid.tokens"
TOKENIZER = DATA / "tokenizers" / "deepseek-v3" / "tokenizer.json"
TIMEOUT_SECONDS = 1200

pytestmark = [
    pytest.mark.skipif(not TEXT.exists(), reason="WikiText-2 is not beside this checkout"),
    pytest.mark.slow,
]

PREPARE = (
    "python research/deepseek3/wikitext_to_bin.py --input ../dataset/wiki.train.tokens --output-prefix "
    "../dataset/wiki_4096 --vocab-file ../dataset/tokenizer.json --seq-length 4096 --workers 1"
)
ORDER = (
    "run_mindformer.py --register_path research/deepseek3 "
    "--config research/deepseek3/deepseek3_671b/pretrain_deepseek3_1b.yaml"
)
STEP_LINE = re.compile(r"\{ Epoch:\[ *\d+/ *\d+\], step:\[ *(\d+)/ *20\], loss: ([\d.]+), ")
"""As scripts that read MindFormers' logs find it."""
CUT = {
    "model.model_config.compute_dtype": "float32",
    "model.model_config.hidden_size": "64",
    "model.model_config.num_heads": "4",
    "model.model_config.n_kv_heads": "4",
    "model.model_config.q_lora_rank": "32",
    "model.model_config.kv_lora_rank": "32",
    "model.model_config.qk_nope_head_dim": "16",
    "model.model_config.qk_rope_head_dim": "16",
    "model.model_config.v_head_dim": "16",
    "model.model_config.intermediate_size": "128",
    "moe_config.moe_intermediate_size": "32",
    "model.model_config.seq_length": "64",
    "model.model_config.max_position_embeddings": "64",
    "train_dataset.data_loader.config.seq_length": "64",
    "train_dataset.data_loader.sizes": "[160,0,0]",
    "epochs": "1",
    "lr_schedule.learning_rate": "5.e-3",
    "lr_schedule.warmup_ratio": "0.1",
    "callbacks.2.save_checkpoint_steps": "10",
}


def test_the_guides_lines_train_a_model(tmp_path: Path) -> None:
    home = make_home(tmp_path / "mindformers")
    shutil.copyfile(TEXT, tmp_path / "dataset" / "wiki.train.tokens")
    shutil.copyfile(TOKENIZER, tmp_path / "dataset" / "tokenizer.json")
    for folder, line in ((home, PREPARE.split()), (home / "mindformers/dataset/blended_datasets", ["make"])):
        process = start(folder, *line)
        out, err = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, out + err
    order = " ".join([ORDER, *(f"--{key} {value}" for key, value in CUT.items())])
    process = start(home, "bash", "scripts/msrun_launcher.sh", order, "8", "8118", "output/msrun_log", "True", "7200")
    out, err = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == 0, out + err
    log = (home / "output/msrun_log/worker_7.log").read_text()
    losses = [float(found) for _, found in STEP_LINE.findall(log)]
    assert [int(step) for step, _ in STEP_LINE.findall(log)] == list(range(1, 21))
    # 1.3 times ln(129,280): the loss of the next token and 0.3 times that of the one after it
    assert losses[0] == pytest.approx(15.3, abs=0.1)
    assert losses[-1] < 11
    assert sorted(path.name for path in (home / "output/msrun_log").iterdir()) == [
        "scheduler.log",
        *(f"worker_{number}.log" for number in range(8)),
    ]
    assert len(list((home / "output/checkpoints").glob("step-*"))) == 2
    # where the guide has them; with MindSpore's sink of one step, every step is an epoch
    assert sorted(path.name for path in (home / "output/checkpoint/rank_0").iterdir()) == [
        "deepseekv3_rank_0-10_1.safetensors",
        "deepseekv3_rank_0-20_1.safetensors",
        "meta.json",
    ]
    ranks = [home / "output/log" / f"rank_{number}" for number in range(8)]
    assert all((folder / name).is_file() for folder in ranks for name in ("info.log", "error.log"))
    assert len(STEP_LINE.findall((ranks[0] / "info.log").read_text())) == 20
