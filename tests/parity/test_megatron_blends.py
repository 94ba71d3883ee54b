"""Megatron-LM's blends, reproduced to the bit. The goldens lie beside the repository."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstlight.config.timeline import Timeline
from firstlight.data import native
from firstlight.data.blend import BlendOrder, normalise, sizes_to_build, target_sizes
from firstlight.data.blended_dataset import BlendedDataset
from firstlight.data.gpt_dataset import GptDataset
from firstlight.data.gpt_order import build_order
from firstlight.data.indexed import IndexedDataset
from firstlight.data.split import parse_split, split_bounds
from firstlight.data.stream import Masking, TokenStream

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "megatron"
pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"the Megatron goldens are not in {GOLDENS}")

SPLITS = ("train", "valid", "test")
CASES = [
    (path.stem, split)
    for path in sorted(GOLDENS.glob("cases/blend*.json"))
    for split in SPLITS
    if ((json.loads(path.read_text())["splits"] or {}).get(split) or {}).get("class") == "BlendedDataset"
]


@pytest.fixture(params=["compiled", "numpy"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways of building an order."""
    if request.param == "numpy":
        monkeypatch.setattr(native, "COMPILED", None)
    elif native.COMPILED is None:
        pytest.skip("the extension is not built")


def _description(case: str) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((GOLDENS / "cases" / f"{case}.json").read_text())
    return description


def _sources(case: str, split: str, asked: list[int | None]) -> list[GptDataset]:
    """The sources of a blend, each with the samples asked of it (None: one epoch)."""
    config, which = _description(case)["config"], SPLITS.index(split)
    prefixes = (config["blend"] or config["blend_per_split"][which])[0]
    datasets = []
    for prefix, num_samples in zip(prefixes, asked, strict=True):
        indexed = IndexedDataset.open(GOLDENS / prefix)
        bounds = split_bounds(parse_split(config["split"]), len(indexed))[which] if config["split"] else None
        length = config["sequence_length"]
        order = build_order(
            indexed.lengths,
            range(len(indexed)) if bounds is None else bounds,
            num_samples=num_samples,
            sequence_length=length,
            seed=config["random_seed"],
        )
        datasets.append(GptDataset(indexed, order, length))
    return datasets


def _blend(case: str, split: str) -> tuple[BlendedDataset, BlendOrder]:
    description, which = _description(case), SPLITS.index(split)
    config, num_samples = description["config"], description["sizes"][which]
    prefixes, weights = config["blend"] or config["blend_per_split"][which]
    if weights is None:
        sources = _sources(case, split, [None] * len(prefixes))
        lengths = [len(source) for source in sources]
        limits = lengths if num_samples is None else None
        size = sum(lengths) if num_samples is None else num_samples
        order = BlendOrder(normalise(lengths), size, limits)
        return BlendedDataset(sources, [order]), order
    shares = normalise(weights)
    asked: list[int | None] = [*sizes_to_build(shares, num_samples, config.get("mid_level_dataset_surplus", 0.005))]
    sources = _sources(case, split, asked)
    order = BlendOrder(shares, sum(target_sizes(shares, num_samples)))
    return BlendedDataset(sources, [order]), order


@pytest.mark.parametrize(("case", "split"), CASES)
def test_blends_are_equal(case: str, split: str) -> None:
    blend, order = _blend(case, split)
    described = _description(case)["splits"][split]
    assert len(blend) == described["len"]
    with np.load(GOLDENS / "cases" / f"{case}.npz") as golden:
        for ours, name in zip(order.arrays(), ("dataset_index", "dataset_sample_index"), strict=True):
            assert ours.dtype == golden[f"{split}/{name}"].dtype
            np.testing.assert_array_equal(ours, golden[f"{split}/{name}"])
        for number, source in enumerate(blend.datasets):
            assert isinstance(source, GptDataset)
            for name in ("document_index", "sample_index", "shuffle_index"):
                np.testing.assert_array_equal(getattr(source.order, name), golden[f"{split}/mid{number}/{name}"])


@pytest.mark.parametrize(("case", "split"), CASES)
def test_all_samples_of_blends_in_order_are_equal(case: str, split: str) -> None:
    blend, _ = _blend(case, split)
    end_of_document = 0 if _description(case)["config"]["eod_mask_loss"] else None
    stream = TokenStream(
        blend,
        timeline=Timeline.even(batch_size=1),
        micro_batch_size=1,
        data_rank=0,
        data_size=1,
        masking=Masking(end_of_document=end_of_document),
    )
    dtypes = {"tokens": np.int64, "labels": np.int64, "loss_mask": np.float32}
    digests = {name: hashlib.sha256() for name in dtypes}
    for _ in range(len(blend)):
        batch = next(stream)
        for name, digest in digests.items():
            digest.update(getattr(batch, name).astype(dtypes[name]).tobytes())
    golden = _description(case)["splits"][split]["sha256_all_samples_in_order"]
    assert {name: digest.hexdigest() for name, digest in digests.items()} == {name: golden[name] for name in digests}


@pytest.mark.parametrize("number", range(7))
def test_bare_blending_indices_are_equal(number: int) -> None:
    with np.load(GOLDENS / "cases" / "pure.npz") as golden:
        expected = golden[f"blend{number}/dataset_index"], golden[f"blend{number}/dataset_sample_index"]
        ours = BlendOrder(golden[f"blend{number}/weights"], len(expected[0])).arrays()
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("number", range(4))
def test_bare_exhaustive_blending_indices_are_equal(number: int) -> None:
    with np.load(GOLDENS / "cases" / "pure.npz") as golden:
        expected = golden[f"exh{number}/dataset_index"], golden[f"exh{number}/dataset_sample_index"]
        sizes = golden[f"exh{number}/sizes"].tolist()
    for one, other in zip(BlendOrder(normalise(sizes), sum(sizes), sizes).arrays(), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_sizes_of_sources_are_equal() -> None:
    for weights, sizes, surplus, expected in json.loads((GOLDENS / "cases" / "pure.json").read_text())[
        "sizes_per_dataset"
    ]:
        shares = normalise(weights)
        by_split = [sizes_to_build(shares, size, surplus) for size in sizes]
        assert [list(row) for row in zip(*by_split, strict=True)] == expected
