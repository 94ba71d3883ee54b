"""`firstlight dry-run`: what a rank of a large run is, as text and as JSON."""

import json
from pathlib import Path

import pytest

from tests.unit.cli.command import ask
from tests.unit.cli.test_plan import EXAMPLE

pytestmark = pytest.mark.slow

LAID_OUT = (
    *("--set", "parallelism.pipeline_parallel=16", "--set", "parallelism.expert_parallel=64"),
    *("--set", "parallelism.pipeline.schedule=dualpipe_v", "--world-size", "1024"),
)


def test_a_rank_of_a_thousand(tmp_path: Path) -> None:
    answer = ask(tmp_path, "dry-run", EXAMPLE, *LAID_OUT, "--rank", "777", "--json")
    assert answer.exit_code == 0, answer.err
    (rank,) = json.loads(answer.out)["ranks"]
    assert rank["places"]["pp"] == 12
    assert rank["state"]["parameters"] == 4 * 719_205_376
    assert [one["name"].split("-")[:2] for one in rank["files"]] == [["model", "00778"], ["optimizer", "00778"]]
    assert rank["samples"][:2] == [9, 73]


def test_which_ranks_has_to_be_said(tmp_path: Path) -> None:
    for flags, message in (((), "--ranks auto"), (("--rank", "1024"), "use 0 to 1023")):
        answer = ask(tmp_path, "dry-run", EXAMPLE, *LAID_OUT, *flags)
        assert answer.exit_code == 2
        assert message in answer.err
