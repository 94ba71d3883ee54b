"""What run.json says of the code and of the ranks."""

import subprocess
from pathlib import Path

from firstlight.train.run_facts import git_state, layout_table
from tests.unit.config.yaml_file import loaded


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=one", "-c", "user.email=one@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_of_the_code_and_whether_it_was_changed(tmp_path: Path) -> None:
    code = tmp_path / "src"
    code.mkdir()
    (code / "one.py").write_text("one = 1\n")
    git(tmp_path, "init", "--quiet")
    assert git_state(code) is None, "not kept yet"
    git(tmp_path, "add", "src")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert git_state(code) == {"commit": commit, "is_dirty": False}
    (tmp_path / "notes.txt").write_text("no code")
    assert git_state(code) == {"commit": commit, "is_dirty": False}
    (code / "one.py").write_text("one = 2\n")
    assert git_state(code) == {"commit": commit, "is_dirty": True}


def test_code_that_is_installed_within_a_repository_is_not_of_its_commit(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "run.yaml").write_text("steps: 1\n")
    git(tmp_path, "add", "run.yaml")
    git(tmp_path, "commit", "--quiet", "-m", "one")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "one.py").write_text("one = 1\n")
    assert git_state(tmp_path / "venv") is None


def test_each_rank_has_its_place_and_its_stages(tmp_path: Path) -> None:
    config = loaded(tmp_path, overrides=["parallelism={pipeline_parallel: 2, expert_parallel: 2}"]).config
    table = layout_table(config, 4)
    assert {axis: degree for axis, degree in table["degrees"].items() if degree > 1} == {
        "pp": 2,
        "dp_shard": 2,
        "shard": 2,
        "ep": 2,
        "others": 4,
    }
    assert table["stages"] == [[0, 1], []], "the second one has the head and what predicts further tokens"
    assert [(rank["pp"], rank["ep"], rank["stages"]) for rank in table["ranks"]] == [
        (0, 0, [0]),
        (0, 1, [0]),
        (1, 0, [1]),
        (1, 1, [1]),
    ]
