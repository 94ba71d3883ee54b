"""The recipes of the guide: large files obey the rules and fit their devices, small ones make the same choices."""

import contextlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from firstlight.base.world import World
from firstlight.cli.main import app
from firstlight.config.load import load
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import timeline_of
from firstlight.train.train import train
from tests.runs import make_tiny_run

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "examples" / "recipes"
PAIRS = {"deepseek-v3": "deepseek-v3-small", "llama-3-405b": "llama-3-small", "kimi-k2": "kimi-k2-small"}
PAGES = sorted((ROOT / "docs" / "guides" / "recipes").glob("*.md"))
PLAN = re.compile(r"^firstlight (plan examples/recipes/.*)$", re.MULTILINE)
PLANS = [line for page in PAGES for line in PLAN.findall(page.read_text())]
LARGE_TOKENS = {"deepseek-v3": 14_862_914_560_000, "llama-3-405b": 15_600_000_000_000, "kimi-k2": 15_960_000_000_000}
"""As published: 14.8 T and 1000 steps of 62.9 M, 15.6 T, and 15.5 T with 460 B of annealing."""
TINY_DATA = (
    "data.train.sources=[{path: data/tiny_text_document}]",
    "data.evaluate=[{name: tiny, path: data/tiny_heldout_text_document}]",
    "data.tokenizer=tokenizer.json",
)


def read(name: str, *overrides: str) -> RunConfig:
    with contextlib.chdir(ROOT):
        return load(RECIPES / f"{name}.yaml", overrides).config


def kinds(value: Any) -> Any:
    """The choices of a section without its numbers: kinds and names, and which keys are given."""
    if isinstance(value, dict):
        return {key: kinds(one) for key, one in value.items()}
    if isinstance(value, list):
        return [kinds(one) for one in value]
    return value if isinstance(value, str | bool | None) else "number"


def test_every_file_is_one_of_a_pair() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*PAIRS, *PAIRS.values()}


@pytest.mark.parametrize("name", PAIRS.values())
def test_a_small_recipe_obeys_the_rules(name: str) -> None:
    with contextlib.chdir(ROOT):
        load(RECIPES / f"{name}.yaml").require_rules(world_size=1)


def test_each_recipe_has_plans_of_its_first_and_last_phase() -> None:
    for name in PAIRS:
        mine = [line for line in PLANS if f"/{name}.yaml" in line]
        assert len(mine) == 2
        assert sum("phases=[]" in line for line in mine) == 1


@pytest.mark.parametrize("line", PLANS)
def test_a_large_recipe_obeys_the_rules_and_fits(line: str) -> None:
    with contextlib.chdir(ROOT):
        done = CliRunner().invoke(app, shlex.split(line))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(("large", "small"), PAIRS.items())
def test_a_small_recipe_makes_the_choices_of_the_large_one(large: str, small: str) -> None:
    expected, found = (read(name).model_dump(mode="json") for name in (large, small))
    for config in (expected, found):
        config["data"]["train"].pop("fill_in_the_middle")
        for source in config["data"]["train"]["sources"]:
            source.pop("path")
        config["training"].pop("output_folder")
    for section in ("model", "optimizer", "lr_scheduler", "phases", "training", "recompute", "averages"):
        assert kinds(found[section]) == kinds(expected[section]), section
    assert kinds(found["data"]["train"]) == kinds(expected["data"]["train"])


@pytest.mark.parametrize(("name", "tokens"), LARGE_TOKENS.items())
def test_a_large_recipe_trains_on_the_published_number_of_tokens(name: str, tokens: int) -> None:
    found = timeline_of(read(name)).tokens
    # Phases and the end begin with a whole step.
    assert tokens <= found < tokens + 2 * 67_108_864


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS.values())
def test_a_small_recipe_trains_through_all_its_phases(name: str, tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    with contextlib.chdir(run.folder):
        loaded = load(
            RECIPES / f"{name}.yaml",
            (*TINY_DATA, "training.output_folder=out", "monitor.sinks=[jsonl]", "monitor.log_every_steps=1"),
        )
        train(loaded.config, World())
    steps = run.metrics("step")
    assert [line["step"] for line in steps if line["skipped_steps"]] == []
    assert len(steps) == loaded.config.training.steps
    assert {line["sequence_length"] for line in steps} == {64, 256}
    losses = [line["loss/lm"] for line in steps]
    assert losses[0] > 8
    assert losses[-1] < 5
