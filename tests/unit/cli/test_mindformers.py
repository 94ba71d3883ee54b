"""MindFormers' commands in the folder that `mindformers-home` makes, run as they are written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runs import TinyRun, environment, make_tiny_run, wait_until
from tests.unit.cli.command import Answer, ask
from tests.unit.cli.test_translate import OLD_YAML
from tests.unit.launch.test_node import free_port
from tests.unit.models.test_registered import EXAMPLE

pytestmark = pytest.mark.slow

ORDER = "run_mindformer.py --register_path research/deepseek3 --config old.yaml"
SMALL = "--output_dir out --train_dataset.data_loader.config.data_path [1,../data/tiny_text_document]"
WEIGHED = """\
run_mode: train
use_legacy: False
use_parallel: False
model:
  model_config:
    architectures: [WeighedForCausalLM]
    vocab_size: 300
    hidden_size: 32
    num_layers: 2
    num_heads: 4
    intermediate_size: 64
    seq_length: 32
    compute_dtype: float32
train_dataset:
  data_loader:
    type: BlendedMegatronDatasetDataLoader
    sizes: [6, 0, 0]
    config: {seq_length: 32, data_path: [1, data/a]}
processor: {tokenizer: {tokenizer_file: tokenizer.json}}
runner_config: {epochs: 1, batch_size: 2}
optimizer: {type: AdamW}
lr_schedule: {type: ConstantWarmUpLR, learning_rate: 1.e-3, warmup_steps: 1}
"""
TEXT = " = Heading = \n\n a b c , d \n\n e f @-@ g . h i j k l m n o p q r s t u v w x y z \n\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A folder with data, and MINDFORMERS_HOME beside it."""
    made = make_tiny_run(tmp_path_factory.mktemp("mindformers"))
    assert ask(made.folder, "mindformers-home", "home").out == f"{made.folder / 'home'}\n"
    (made.folder / "home" / "old.yaml").write_text(OLD_YAML)
    (made.folder / "home" / "tokenizer.json").write_bytes((made.folder / "tokenizer.json").read_bytes())
    return made


@pytest.fixture
def home(run: TinyRun) -> Path:
    return run.folder / "home"


def shell_environment() -> dict[str, str]:
    """With `python` the one that runs the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return environment() | {"PATH": path, "OMP_NUM_THREADS": "1"}


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, cwd=home, env=shell_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finished(home: Path, *words: str) -> tuple[int, str]:
    """The exit code, and all that was said."""
    process = start(home, *words)
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def launched(home: Path, *words: str) -> Answer:
    """The launcher in this process; for what it refuses."""
    return ask(home, "mindformers", "launch", "--home", str(home), "--", *words)


def test_a_home_is_made_once_and_the_users_files_stay(tmp_path: Path) -> None:
    ask(tmp_path, "mindformers-home", "home")
    assert (tmp_path / "dataset").is_dir()
    yaml = tmp_path / "home/research/deepseek3/deepseek3_671b/pretrain_deepseek3_1b.yaml"
    script = tmp_path / "home/run_mindformer.py"
    text = script.read_text()
    yaml.write_text("mine: true\n")
    script.write_text("old")
    ask(tmp_path, "mindformers-home", "home")
    assert yaml.read_text() == "mine: true\n"
    assert script.read_text() == text


def test_the_builders_are_made_or_said_to_be_there(home: Path) -> None:
    code, said = finished(home / "mindformers/dataset/blended_datasets", "make")
    assert (code, said) == (0, "Firstlight uses compiled builders\n")


def test_wikitext_becomes_rows(home: Path) -> None:
    (home / "wiki.train.tokens").write_text(TEXT * 4)
    words = "--input wiki.train.tokens --output-prefix wiki_8 --vocab-file tokenizer.json --seq-length 8 --workers 1"
    code, said = finished(home, "python", "research/deepseek3/wikitext_to_bin.py", *words.split())
    assert code == 0, said
    assert "wiki_8_text_document.bin: " in said
    assert " rows of 9 tokens" in said
    assert (home / "wiki_8_text_document.idx").is_file()


def test_one_worker_trains_and_leaves_its_log(home: Path) -> None:
    order = f"{ORDER} {SMALL} --seed 3"
    code, said = finished(home, "bash", "scripts/msrun_launcher.sh", order, "1", "8118", "out/msrun_log", "True", "60")
    assert code == 0, said
    log = (home / "out/msrun_log/worker_0.log").read_text()
    assert "step:[    3/    3], loss: " in log
    assert (home / "out/msrun_log/scheduler.log").is_file()
    info = (home / "output/log/rank_0/info.log").read_text()
    assert "step:[    3/    3], loss: " in info
    assert "[INFO] " in info
    assert (home / "output/log/rank_0/error.log").read_text() == ""
    assert (home / "out/checkpoints/step-00000003").is_dir()


def test_a_registered_class_trains_by_its_own_name(home: Path) -> None:
    shutil.copytree(EXAMPLE, home / "own", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    (home / "weighed.yaml").write_text(WEIGHED)
    words = f"--config weighed.yaml --output_dir weighed {SMALL.partition(' ')[2].partition(' ')[2]}"
    code, said = finished(home, "python", "run_mindformer.py", *words.split())
    assert (code, "WeighedForCausalLM" in said) == (2, True), said
    code, said = finished(home, "python", "run_mindformer.py", *words.split(), "--register_path", "own")
    assert code == 0, said
    assert "model class WeighedDecoder for the family llama, run from " in said
    assert "step:[    3/    3], loss: " in said


def test_workers_in_the_background_outlive_the_launcher(home: Path) -> None:
    order = f"{ORDER} {SMALL} --output_dir two --use_parallel True --parallel_config.data_parallel 2 --batch_size 1"
    code, said = finished(home, "bash", "scripts/msrun_launcher.sh", order, "2", "8118", "logs", "False", "60")
    assert code == 0, said
    assert "follow them with tail -f logs/worker_1.log" in said
    log = home / "logs/worker_0.log"
    wait_until(lambda: log.is_file() and "done: steps 1 to 3" in log.read_text(), timeout=120)
    assert "step:[    3/    3], loss: " in (home / "logs/worker_1.log").read_text()


@pytest.mark.slow
def test_two_nodes_train_together(home: Path) -> None:
    order = f"{ORDER} {SMALL} --output_dir nodes --use_parallel True --parallel_config.data_parallel 2 --batch_size 1"
    place = ["127.0.0.1", str(free_port())]
    words = [["2", "1", *place, str(rank), f"logs_{rank}", "True", "60"] for rank in (0, 1)]
    processes = [start(home, "bash", "scripts/msrun_launcher.sh", order, *one) for one in words]
    said = [process.communicate(timeout=150) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert "all 2 nodes are there; this is node 1" in said[1][1]
    assert "step:[    3/    3], loss: " in (home / "logs_0/worker_0.log").read_text()
    assert (home / "logs_1/worker_1.log").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([ORDER, "1", "2"], "msrun_launcher.sh was given 3 arguments"),
        ([ORDER, "abc"], "WORKER_NUM = 'abc' is not a whole number"),
        ([f"{ORDER} --runner_config.epoch 1", "1"], "did you mean epochs? (--runner_config.epoch 1)"),
        ([ORDER, "1"], "data files do not exist: "),
        ([f"{ORDER} {SMALL} --run_mode predict", "1"], "run_mode = predict does not train"),
        ([ORDER, "4", "2", "127.0.0.1", "8118", "2", "logs", "True", "9"], "NODE_RANK = 2 is not one of the 2 nodes"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(home: Path, words: list[str], message: str) -> None:
    answer = launched(home, *words)
    assert answer.exit_code == 2
    assert message in answer.message


def test_two_nodes_of_one_rank_end_all_of_them(home: Path) -> None:
    order = f"{ORDER} {SMALL} --output_dir twice --use_parallel True --parallel_config.data_parallel 3 --batch_size 1"
    place = ["127.0.0.1", str(free_port())]
    words = [["3", "1", *place, rank, f"twice_{number}", "True", "60"] for number, rank in enumerate(("0", "1", "1"))]
    processes = [start(home, "bash", "scripts/msrun_launcher.sh", order, *one) for one in words]
    said = [process.communicate(timeout=150)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2, 2]
    assert all("two nodes have NODE_RANK = 1; give each its own, from 0 to 2" in one for one in said)
    assert not (home / "twice").exists()


def test_a_dead_master_ends_the_node(home: Path) -> None:
    order = f"{ORDER} {SMALL} --use_parallel True --parallel_config.data_parallel 2"
    port = str(free_port())
    answer = launched(home, order, "2", "1", "127.0.0.1", port, "1", "dead", "True", "1")
    assert answer.exit_code == 1
    assert answer.message.startswith(f"1 of 2 nodes did not come within 1 s: node 0 (127.0.0.1:{port})")


def test_a_worker_that_fails_ends_the_launcher_with_its_code(home: Path) -> None:
    (home / "full").mkdir(exist_ok=True)
    (home / "full" / "thesis.txt").write_text("")
    order = f"{ORDER} {SMALL} --output_dir full"
    code, said = finished(home, "bash", "scripts/msrun_launcher.sh", order, "1", "8118", "failed", "True", "60")
    assert code == 2, said
    assert "is not empty and holds no run" in (home / "failed/worker_0.log").read_text()
    assert "the workers ended with exit code 2; their logs are in failed" in said
