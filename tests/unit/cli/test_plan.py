"""`firstlight plan`: a table, JSON and a page; what does not fit is refused, and nothing loads torch."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.command import ask

ROOT = Path(__file__).parents[3]
EXAMPLE = str(ROOT / "examples" / "deepseek-v3-4k.yaml")
LAID_OUT = (
    *("--set", "parallelism.pipeline_parallel=16", "--set", "parallelism.expert_parallel=64"),
    *("--set", "parallelism.pipeline.schedule=dualpipe_v", "--set", "recompute.kind=full"),
    *("--hardware", "h200", "--world-size", "1024"),
)
BATCH = ("--world-size", "8", "--set", "training.global_batch_size=16")
FITS = (*LAID_OUT, "--set", "training.global_batch_size=2048")


def test_a_plan_is_a_table(tmp_path: Path) -> None:
    answer = ask(tmp_path, "plan", EXAMPLE, *FITS)
    assert answer.exit_code == 0, answer.err
    assert "pipeline_parallel           16" in answer.out
    assert "parameters 682,636,472,320" in answer.out
    for word in ("gathered", "activations", "bubble", "rows to experts and back", "device-hours", "guesses"):
        assert word in answer.out, word


def test_json_has_every_figure(tmp_path: Path) -> None:
    answer = ask(tmp_path, "plan", EXAMPLE, *FITS, "--json")
    found, _ = json.JSONDecoder().raw_decode(answer.out)
    assert found["parameters"]["total"] == 682_636_472_320
    assert len(found["memory_bytes"]) == 16
    for memory in found["memory_bytes"]:
        assert memory["total"] == sum(size for name, size in memory.items() if name != "total")
    step = found["step_seconds"]
    assert step["total"] == pytest.approx(step["pipeline"] + step["gradients"] + step["update"])
    assert {one["link"] for one in found["communication"]} == {"cluster"}


def test_the_page_draws_memory_and_the_pipeline(tmp_path: Path) -> None:
    answer = ask(tmp_path, "plan", EXAMPLE, *FITS, "--html", "plan.html")
    assert "bubble" in answer.out
    text = (tmp_path / "plan.html").read_text()
    assert "<h2>Memory</h2>" in text
    assert "<h2>Pipeline</h2>" in text
    assert "gradients of weights" in text
    assert 'src="http' not in text


def test_a_run_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    answer = ask(tmp_path, "plan", EXAMPLE, "--hardware", "h800", "--world-size", "8")
    assert answer.exit_code == 2
    assert answer.message.startswith("place 0 of the pipeline needs")
    assert "use more ranks" in answer.message


def test_broken_rules_are_said_before_anything_is_planned(tmp_path: Path) -> None:
    answer = ask(tmp_path, "plan", EXAMPLE, "--set", "parallelism.expert_parallel=48", "--world-size", "96")
    assert answer.exit_code == 2
    assert "parallelism.expert_parallel = 48 does not divide" in answer.message
    assert answer.out == ""


def test_a_profile_is_fitted_to_a_run_and_kept(tmp_path: Path) -> None:
    plan = json.JSONDecoder().raw_decode(ask(tmp_path, "plan", EXAMPLE, *FITS, "--json").out)[0]
    seconds = 1.5 * plan["step_seconds"]["total"]
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "step", "step_seconds": seconds}))
    fit = ("--calibrate", "metrics.jsonl", "--save-hardware", "fitted.yaml")
    ask(tmp_path, "plan", EXAMPLE, *FITS, *fit)
    again = tuple("fitted.yaml" if word == "h200" else word for word in FITS)
    found = json.JSONDecoder().raw_decode(ask(tmp_path, "plan", EXAMPLE, *again, "--json").out)[0]
    assert found["step_seconds"]["total"] == pytest.approx(seconds, rel=2e-3)
    assert "efficiency.products.fp8" not in found["guesses"]


def test_a_plan_loads_no_torch() -> None:
    code = (
        "import sys; from firstlight.cli.main import app\n"
        f"sys.argv = ['firstlight', 'plan', {EXAMPLE!r}, *{list(FITS)!r}]\n"
        "try: app()\nexcept BaseException: pass\nprint('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr.strip().endswith("False"), done.stderr
    assert "bubble" in done.stdout


def test_a_search_writes_a_run_that_is_checked(tmp_path: Path) -> None:
    pins = [part for pin in ("tensor_parallel=1", "schedule=1f1b", "micro_batch_size=1") for part in ("--pin", pin)]
    file = str(tmp_path / "best.yaml")
    example = str(ROOT / "examples" / "quickstart.yaml")
    answer = ask(tmp_path, "plan", example, *BATCH, "--search", *pins, "--save-config", file)
    assert answer.exit_code == 0, answer.err
    assert "the fastest" in answer.out
    assert "data_parallel_shard" in answer.out
    shown = ask(tmp_path, "config", "show", "--config", file, "--world-size", "8")
    assert shown.exit_code == 0, shown.err
    again = ask(tmp_path, "plan", example, *BATCH, "--search", *pins, "--json")
    found = json.loads(again.out)
    assert found["simulated"][0]["is_on_front"]
