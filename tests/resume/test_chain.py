"""What one layout saves, another one restores to the bit and goes on from: weights, moments, samples, losses.

The legs of a run change its layout; each is held to what the one before it had saved, and to the step that it took
undisturbed after that.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from firstlight.base.peers import Alone
from firstlight.checkpoint.checkpointer import Checkpointer
from firstlight.checkpoint.manifest import read_manifest
from firstlight.checkpoint.step_folder import candidates
from firstlight.config.load import load
from firstlight.config.model import ModelConfig
from firstlight.config.training import CheckpointConfig
from firstlight.convert.huggingface import ExportedTokenizer, export
from firstlight.layout.mesh import Layout
from firstlight.parallel.apply import Keeping, build_parallel
from firstlight.train.state import model_tensors
from tests.equivalence.test_layouts import run_ranks
from tests.resume import legs
from tests.resume.legs import Chain, Leg
from tests.resume.rank import SETTINGS
from tests.runs import TinyRun, make_tiny_run
from tests.unit.checkpoint.state import same_bits

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5
NUM_PAIRS = 12


@dataclass(frozen=True, kw_only=True)
class Took:
    """What the ranks of a leg wrote down; whole tensors as `restored/NAME` and `saved/NAME`."""

    leg: Leg
    tensors: Mapping[str, Tensor]
    ranks: Sequence[Mapping[str, Any]]

    @property
    def first(self) -> Mapping[str, Any]:
        return self.ranks[0]

    def samples(self, step: str) -> list[int]:
        """The numbers of the global batch; all readers of a portion have read the same."""
        portions: dict[int, list[int]] = {}
        for rank in self.ranks:
            mine = portions.setdefault(rank["data_rank"], rank[step]["samples"])
            assert mine == rank[step]["samples"], self.leg.name
        return sorted(number for portion in portions.values() for number in portion)


def read(folder: Path, name: str, leg: Leg) -> Took:
    """What the ranks of a leg left in `folder`."""
    files = [folder / f"{name}-{rank}" for rank in range(leg.size)]
    facts = [json.loads(file.with_suffix(".json").read_text()) for file in files]
    blocks = [load_file(file.with_suffix(".safetensors")) for file in files]
    return Took(leg=leg, tensors=joined(blocks, facts), ranks=[one["values"] for one in facts])


def joined(ranks: Sequence[Mapping[str, Tensor]], facts: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The whole tensors; ranks that hold the same block hold the same bits, and no element is missing."""
    whole: dict[str, Tensor] = {}
    known: dict[str, Tensor] = {}
    for blocks, fact in zip(ranks, facts, strict=True):
        for name, block in blocks.items():
            shape = fact["shapes"][name]
            into = whole.setdefault(name, torch.zeros(shape, dtype=block.dtype))
            filled = known.setdefault(name, torch.zeros(shape, dtype=torch.bool))
            where = tuple(slice(o, o + n) for o, n in zip(fact["offsets"][name], block.shape, strict=True))
            was = filled[where]
            assert torch.equal(into[where][was], block[was]), name
            into[where] = block
            filled[where] = True
    assert all(bool(filled.all()) for filled in known.values())
    return whole


def at(took: Took, moment: str) -> dict[str, Tensor]:
    prefix = f"{moment}/"
    return {name.removeprefix(prefix): tensor for name, tensor in took.tensors.items() if name.startswith(prefix)}


def assert_goes_on(before: Took, after: Took) -> None:
    """From the state that `before` had saved, with the step that it took after that."""
    what = f"{before.leg.name} -> {after.leg.name}"
    saved, restored = at(before, "saved"), at(after, "restored")
    assert saved.keys() == restored.keys(), what
    for name, tensor in saved.items():
        assert same_bits(restored[name], tensor), f"{what}: {name}"
    for rank in after.ranks:
        assert rank["restored"]["state"] == before.first["saved"]["state"], what
    assert after.samples("next") == before.samples("undisturbed"), what
    assert_evaluates_alike(before.first["saved"], after, what)
    assert_steps_alike(before.first["undisturbed"], after, what)


def assert_evaluates_alike(there: Mapping[str, Any], after: Took, what: str) -> None:
    loss, tokens = there["evaluation"]
    for rank in after.ranks:
        assert rank["restored"]["evaluation"] == [pytest.approx(loss, rel=TOLERANCE), tokens], what


def assert_steps_alike(there: Mapping[str, Any], after: Took, what: str) -> None:
    for rank in after.ranks:
        assert rank["next"]["loss"] == pytest.approx(there["loss"], rel=TOLERANCE), what
        assert rank["next"]["load"] == pytest.approx(there["load"], abs=1e-9), what


def assert_each_byte_is_saved_once(folder: Path, num_legs: int) -> None:
    found = candidates(folder)
    assert len(found) == num_legs
    for step in found:
        for name, record in read_manifest(step).tensors.items():
            assert sum(prod(shard.shape) for shard in record.shards) == prod(record.shape), f"{step}: {name}"


@dataclass(kw_only=True)
class Weights:
    """A state of nothing but weights."""

    live: dict[str, Tensor]
    step: int = 1

    def tensors(self) -> Mapping[str, Tensor]:
        return self.live

    def state_dict(self) -> dict[str, Any]:
        return {}

    def refusal(self, _state: Mapping[str, Any], /) -> str | None:
        return None

    def load_state_dict(self, _state: Mapping[str, Any]) -> None:
        raise AssertionError("nothing restores it")


def exported(model: ModelConfig, checkpoints: Path, run: TinyRun, output: Path) -> Path:
    tokenizer = ExportedTokenizer(
        file=run.folder / "tokenizer.json", end_of_document="<|endoftext|>", end_of_document_id=0
    )
    export(model, checkpoints, output, tokenizer, dtype="fp32")
    return output


def exported_by_one(model: ModelConfig, weights: dict[str, Tensor], run: TinyRun, folder: Path) -> Path:
    """The folder of a run that one process has saved."""
    checkpointer = Checkpointer(folder / "checkpoints", CheckpointConfig(), Alone(), configuration={})
    checkpointer.save(Weights(live=weights))
    checkpointer.finish()
    return exported(model, folder / "checkpoints", run, folder / "hub")


def model_of(chain: Chain, run: TinyRun) -> ModelConfig:
    return load(run.folder / "run.yaml", [*SETTINGS, *chain.model]).config.model


def leave_weights(run: TinyRun) -> None:
    """A Hugging Face folder for those that start from one, with weights of another seed."""
    (chain,) = [one for one in legs.QUICK if one.name == "experts"]
    model = model_of(chain, run)
    (decoder,) = build_parallel(model, Layout(), Keeping(), device=torch.device("cpu"), seed=11).stages
    folder = exported_by_one(model, model_tensors(decoder), run, run.folder / "weights")
    folder.rename(run.folder / "hub")


def assert_pipelines_export_as_one_process(chain: Chain, took: Sequence[Took], run: TinyRun, ranks: Path) -> None:
    """From the checkpoint of a pipeline, the files that one process gives with the same weights."""
    model = model_of(chain, run)
    steps = reversed(candidates(ranks / f"{chain.name}-out" / "checkpoints"))
    for number, (one, step) in enumerate(zip(took, steps, strict=True)):
        if one.leg.name.startswith("pp"):
            apart = run.folder / f"{chain.name}-{number}"
            apart.mkdir()
            (apart / step.name).symlink_to(step)
            here = exported(model, apart, run, apart / "hub")
            weights = {name: tensor for name, tensor in at(one, "saved").items() if name.startswith("model/")}
            there = exported_by_one(model, weights, run, apart / "one")
            for file in ("model.safetensors", "config.json"):
                assert (here / file).read_bytes() == (there / file).read_bytes(), one.leg.name


@pytest.mark.parametrize(("chains", "size"), [("QUICK", 4), pytest.param("MANY", 8, marks=pytest.mark.slow)])
def test_layouts_go_on_from_each_other(chains: str, size: int, tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path / "run")
    leave_weights(run)
    ranks = tmp_path / "ranks"
    num_legs = sum(len(chain.legs) for chain in getattr(legs, chains))
    run_ranks(ranks, size, [chains], module="tests.resume.rank", working_folder=run.folder, num_cases=num_legs)
    num_pairs = 0
    for chain in getattr(legs, chains):
        took = [read(ranks, f"{chain.name}-{number}-{leg.name}", leg) for number, leg in enumerate(chain.legs)]
        if not chain.goes_on:
            for other in took[1:]:
                assert_starts_alike(took[0], other)
            continue
        for before, after in pairwise(took):
            assert_goes_on(before, after)
            num_pairs += 1
        assert_each_byte_is_saved_once(ranks / f"{chain.name}-out" / "checkpoints", len(took))
        assert_pipelines_export_as_one_process(chain, took, run, ranks)
    assert num_pairs >= NUM_PAIRS or chains == "QUICK"


def assert_starts_alike(alone: Took, other: Took) -> None:
    """Both from the same weights of another tool."""
    what = f"{other.leg.name} from a folder of weights"
    for name, tensor in at(alone, "restored").items():
        assert same_bits(at(other, "restored")[name], tensor), f"{what}: {name}"
    assert other.samples("next") == alone.samples("next"), what
    assert_evaluates_alike(alone.first["restored"], other, what)
    assert_steps_alike(alone.first["next"], other, what)
