"""The multi-node practice of MindFormers' pretraining guide: four machines train, and 1,024 ranks are rehearsed.

A machine is a network namespace with an address of its own and a file system of its own where the run's folders are;
they share nothing but the output folder.
"""

import json
import os
import re
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.compat.home_folder import make_home
from firstlight.compat.launcher_arguments import read_launcher_arguments
from firstlight.compat.translation import translate
from firstlight.config.load import load_source
from firstlight.config.source import Source
from firstlight.layout.counts import count_parameters
from tests.parity.test_mindformers_practice import CUT, ORDER, PREPARE, TEXT, TIMEOUT_SECONDS, TOKENIZER
from tests.runs import command, environment
from tests.unit.cli.test_mindformers import finished, shell_environment

OLD = Path(__file__).parents[3] / "shared" / "configs" / "mindformers" / "g1_pretrain_deepseek3_671b.yaml"
NUM_HOSTS = 4
MASTER = "10.231.8.1"
WITHIN = """\
mount --make-rprivate /
mount --bind "$1" "$3" && mount --bind "$2" "$3/mindformers/output" && mount -t tmpfs none "$4" || exit 99
cd "$3/mindformers" && shift 4 && exec bash scripts/msrun_launcher.sh "$@"
"""
"""On a machine: its own folder and the shared one take their places, and what holds them for the others goes."""

WAITING = ("output/msrun_log", "True", "300")
pytestmark = pytest.mark.slow


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """The names of namespaces that reach each other over a switch."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("network namespaces need root and iproute2")
    tag = uuid.uuid4().hex[:6]
    names, switch = [f"fl-{tag}-{number}" for number in range(NUM_HOSTS)], f"fl-{tag}-s"
    try:
        made = all(ip("netns", "add", name) for name in (*names, switch))
        if not (made and _bridged(switch) and all(_joined(*one, switch, tag) for one in enumerate(names))):
            pytest.skip("network namespaces cannot be made here")
        yield names
    finally:
        for name in (*names, switch):
            ip("netns", "del", name)


def _bridged(switch: str) -> bool:
    return ip("-n", switch, "link", "add", "br0", "type", "bridge") and ip("-n", switch, "link", "set", "br0", "up")


def _joined(number: int, name: str, switch: str, tag: str) -> bool:
    inner, outer = f"fl{tag}{number}", f"sw{tag}{number}"
    return all(
        ip(*words)
        for words in (
            ("link", "add", inner, "netns", name, "type", "veth", "peer", "name", outer, "netns", switch),
            ("-n", switch, "link", "set", outer, "master", "br0", "up"),
            ("-n", name, "addr", "add", f"10.231.8.{number + 1}/24", "dev", inner),
            ("-n", name, "link", "set", inner, "up"),
            ("-n", name, "link", "set", "lo", "up"),
        )
    )


def start_on(name: str, own: Path, shared: Path, place: Path, *words: str) -> subprocess.Popen[str]:
    folders = [str(own), str(shared), str(place), str(own.parent)]
    return subprocess.Popen(
        ["ip", "netns", "exec", name, "bash", "-c", WITHIN, "host", *folders, *words],
        env=shell_environment() | {"TMPDIR": str(place / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not TEXT.exists(), reason="WikiText-2 is not beside this checkout")
def test_the_nine_words_train_on_four_machines(hosts: list[str], tmp_path: Path) -> None:
    first, shared, place = tmp_path / "machines" / "0", tmp_path / "shared", tmp_path / "place"
    home = make_home(first / "mindformers")
    shutil.copyfile(TEXT, first / "dataset" / "wiki.train.tokens")
    shutil.copyfile(TOKENIZER, first / "dataset" / "tokenizer.json")
    code, said = finished(home, *PREPARE.split())
    assert code == 0, said
    for folder in (home / "output", first / "tmp", shared, place):
        folder.mkdir()
    for number in range(1, NUM_HOSTS):
        shutil.copytree(first, first.parent / str(number))
    cut = CUT | {"train_dataset.data_loader.sizes": "[64,0,0]", "callbacks.2.save_checkpoint_steps": "4"}
    order = " ".join([ORDER, *(f"--{key} {value}" for key, value in cut.items())])
    processes = [
        start_on(name, first.parent / str(rank), shared, place, order, "8", "2", MASTER, "8118", str(rank), *WAITING)
        for rank, name in enumerate(hosts)
    ]
    try:
        said = [process.communicate(timeout=TIMEOUT_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * NUM_HOSTS, said
    log = (shared / "msrun_log" / "worker_0.log").read_text()
    losses = [float(loss) for loss in re.findall(r"step:\[ *\d+/ *8\], loss: ([\d.]+), ", log)]
    assert len(losses) == 8
    assert losses[0] == pytest.approx(15.3, abs=0.1)
    assert losses[-1] < losses[0] - 1
    assert {path.name for path in (shared / "msrun_log").iterdir()} == {
        "scheduler.log",
        *(f"launcher_{number}.log" for number in range(1, NUM_HOSTS)),
        *(f"worker_{number}.log" for number in range(8)),
    }
    assert len(list((shared / "checkpoints").glob("step-*"))) == 2
    assert (shared / "checkpoint" / "rank_0" / "deepseekv3_rank_0-8_1.safetensors").is_file()
    # Nobody wrote into another's folder, nor into what lies below the shared one.
    below = [first.parent / str(number) / "mindformers" / "output" for number in range(NUM_HOSTS)]
    assert not [path for folder in below for path in folder.iterdir()]


@pytest.mark.skipif(not OLD.exists(), reason="MindFormers' YAML files are not beside this checkout")
def test_a_start_of_1024_ranks_is_rehearsed() -> None:
    """With the published file as it is: one rank of each kind is built as it would be among all of them."""
    done = subprocess.run(
        command("dry-run", str(OLD), "--ranks", "auto", "--json"),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ranks = {one["rank"]: one for one in json.loads(done.stdout)["ranks"]}
    translation = translate(OLD)
    assert translation.world_size == 1024
    model = load_source(Source(values=dict(translation.values), origins={}), str(OLD)).config.model
    stages = {one["places"]["pp"]: one for one in ranks.values()}
    assert sorted(layer for one in stages.values() for stage in one["stages"] for layer in stage["layers"]) == [
        *range(61)
    ]
    # 64 ranks hold a stage's parameters in four bytes each. Some are there for each rank of a tensor group (latents'
    # projections, routers, norms), and the last stage has a copy of the embedding for multi-token prediction.
    held = sum(one["state"]["parameters"] for one in stages.values()) * 64 / 4
    total = count_parameters(model).total
    assert total < held < 1.01 * total
    # the first and the last machine of the guide's command are the first and the last stage
    words = [ORDER, "1024", "8", "10.0.0.1", "8118", "127", "output/msrun_log", "False", "7200"]
    assert read_launcher_arguments(words).ranks == range(1016, 1024)
    assert ranks[0]["places"]["pp"] == 0
    assert ranks[1023]["places"]["pp"] == 15
    batch = translation.values["training"]["global_batch_size"]
    assert len(ranks[1023]["samples"]) * 16 == batch
