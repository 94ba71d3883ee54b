"""Megatron-LM's own files and orders, reproduced to the bit. The goldens lie beside the repository."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from firstlight.base.errors import FirstlightError
from firstlight.config.timeline import Timeline
from firstlight.data.blend import normalise, sizes_to_build
from firstlight.data.cyclic_sampler import CyclicSampler, torch_permutation
from firstlight.data.gpt_dataset import GptDataset
from firstlight.data.gpt_order import build_order, build_sample_index
from firstlight.data.indexed import TOKEN_TYPES, IndexedDataset, best_dtype
from firstlight.data.indexed_merge import merge
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.samples import Samples, read_samples
from firstlight.data.split import parse_split, split_bounds
from firstlight.data.stream import Masking, TokenStream

GOLDENS = Path(__file__).parents[3] / "shared" / "goldens" / "megatron"
pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason=f"the Megatron goldens are not in {GOLDENS}")

SINGLE_SOURCE = ("single_", "epochs_", "tiny_seq7", "huge_seq", "noeod", "multi_sequence_docs", "int32_ids")
CASES = sorted(path.stem for path in GOLDENS.glob("cases/*.json") if path.stem.startswith(SINGLE_SOURCE))
SETS = sorted(path.with_suffix("") for path in GOLDENS.glob("data/*.idx"))
LOW_LEVEL = sorted(path.with_suffix("") for path in GOLDENS.glob("lowlevel/*.idx") if path.stem != "multimodal")
SPLITS = ("train", "valid", "test")
PAD = 1


def _description(case: str) -> dict[str, Any]:
    description: dict[str, Any] = json.loads((GOLDENS / "cases" / f"{case}.json").read_text())
    return description


def _dataset(case: str, split: str) -> GptDataset:
    description = _description(case)
    config = description["config"]
    indexed = IndexedDataset.open(GOLDENS / config["blend"][0][0])
    which = SPLITS.index(split)
    sequences = split_bounds(parse_split(config["split"]), len(indexed))[which]
    assert sequences is not None
    assert [sequences.start, sequences.stop] == description["splits"][split]["indices"]
    order = build_order(
        indexed.lengths,
        sequences,
        num_samples=description["sizes"][which],
        sequence_length=config["sequence_length"],
        seed=config["random_seed"],
        extra_token=int(config.get("add_extra_token_to_sequence", True)),
        keeps_rest=split == "valid" and not config.get("drop_last_partial_validation_sequence", True),
    )
    return GptDataset(indexed, order, config["sequence_length"])


def _present(case: str) -> list[str]:
    """The splits that Megatron built."""
    splits = _description(case)["splits"]
    return [name for name in SPLITS if splits[name]]


def _as_megatron(dataset: GptDataset, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens and labels with Megatron's rules for padding: where a label would be padding, id 0."""
    samples = read_samples(dataset, np.array([k]))
    sample, num_real = samples.tokens[0].astype(np.int64), int(samples.num_real[0])
    assert (sample[num_real:] == 0).all()
    assert not (sample[:num_real] == PAD).any()
    return sample[:-1], sample[1:]


@pytest.mark.parametrize("case", CASES)
def test_index_arrays_are_equal(case: str) -> None:
    with np.load(GOLDENS / "cases" / f"{case}.npz") as golden:
        for split in _present(case):
            order = _dataset(case, split).order
            for name in ("document_index", "sample_index", "shuffle_index"):
                ours = getattr(order, name)
                assert ours.dtype == golden[f"{split}/{name}"].dtype
                np.testing.assert_array_equal(ours, golden[f"{split}/{name}"])


@pytest.mark.parametrize("case", CASES)
def test_picked_samples_are_equal(case: str) -> None:
    with np.load(GOLDENS / "cases" / f"{case}.npz") as golden:
        for split in _present(case):
            dataset = _dataset(case, split)
            for row, k in enumerate(golden[f"{split}/picked"]):
                tokens, labels = _as_megatron(dataset, int(k))
                np.testing.assert_array_equal(tokens, golden[f"{split}/sample_tokens"][row])
                np.testing.assert_array_equal(labels, golden[f"{split}/sample_labels"][row])


@pytest.mark.parametrize("case", CASES)
def test_all_samples_in_order_are_equal(case: str) -> None:
    for split in _present(case):
        dataset = _dataset(case, split)
        golden = _description(case)["splits"][split]
        assert len(dataset) == golden["len"]
        digests = {"tokens": hashlib.sha256(), "labels": hashlib.sha256()}
        for k in range(len(dataset)):
            tokens, labels = _as_megatron(dataset, k)
            digests["tokens"].update(tokens.tobytes())
            digests["labels"].update(labels.tobytes())
        for name, digest in digests.items():
            assert digest.hexdigest() == golden["sha256_all_samples_in_order"][name]


@pytest.mark.parametrize(
    "case", ["single_seed1234", "single_no_extra_token", "single_eod_mask", "single_valid_partial_kept"]
)
def test_loss_masks_are_equal(case: str) -> None:
    """Also by position: without the extra token the last label is not trained on."""
    end_of_document = 0 if _description(case)["config"]["eod_mask_loss"] else None
    for split in _present(case):
        dataset = _dataset(case, split)
        stream = TokenStream(
            dataset,
            timeline=Timeline.even(batch_size=1),
            micro_batch_size=1,
            data_rank=0,
            data_size=1,
            masking=Masking(end_of_document=end_of_document),
        )
        golden = _description(case)["splits"][split]
        digest = hashlib.sha256()
        for _ in range(golden["len"]):
            digest.update(next(stream).loss_mask.tobytes())
        assert digest.hexdigest() == golden["sha256_all_samples_in_order"]["loss_mask"]


def test_splits_are_equal() -> None:
    pure = json.loads((GOLDENS / "cases" / "pure.json").read_text())
    for text, (_, shares) in pure["splits"].items():
        assert parse_split(text) == [share and tuple(share) for share in shares]
        for num_sequences, parts in pure["split_bounds"].get(text, {}).items():
            parts_of_ours = split_bounds(parse_split(text), int(num_sequences))
            bounds = [part if part is None else [part.start, part.stop] for part in parts_of_ours]
            assert bounds == parts


def test_bare_sample_indices_are_equal() -> None:
    pure = json.loads((GOLDENS / "cases" / "pure.json").read_text())
    with np.load(GOLDENS / "cases" / "pure.npz") as golden:
        for number, case in enumerate(pure["sidx"]):
            expected = golden[f"sidx{number}/out"]
            ours = build_sample_index(
                golden[f"sidx{number}/sizes"],
                golden[f"sidx{number}/doc"],
                num_samples=len(expected) - 1 - (not case["drop_last"]),  # the rest is `build_order`'s
                sequence_length=case["seq_length"],
                extra_token=int(case["add_extra"]),
            )
            np.testing.assert_array_equal(ours, expected[: len(ours)])


class _Numbers:
    """A data set in which sample k has the tokens k, k + 1."""

    sequence_length = 1

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def read(self, numbers: NDArray[np.int64], out: Samples, rows: NDArray[np.int64]) -> None:
        out.tokens[rows] = numbers[:, None] + np.arange(2)
        out.num_real[rows] = 2


@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_ranks_take_the_samples_that_megatrons_sampler_gives(number: int) -> None:
    case = json.loads((GOLDENS / "cases" / "pure.json").read_text())["samplers"][number]
    with np.load(GOLDENS / "cases" / "pure.npz") as golden:
        for rank in range(case["dp"]):
            stream = TokenStream(
                _Numbers(case["total"]),
                timeline=Timeline.even(batch_size=case["micro_batch"] * case["dp"]),
                micro_batch_size=case["micro_batch"],
                data_rank=rank,
                data_size=case["dp"],
            )
            stream.load_state_dict({"consumed_samples": case["consumed"]})
            for expected in golden[f"seq{number}/rank{rank}"]:
                np.testing.assert_array_equal(next(stream).tokens[:, 0], expected)


@pytest.mark.parametrize("prefix", LOW_LEVEL + SETS, ids=lambda prefix: prefix.name)
def test_files_are_written_byte_for_byte(prefix: Path, tmp_path: Path) -> None:
    indexed = IndexedDataset.open(prefix)
    with IndexedWriter(tmp_path / "copy", indexed.dtype) as writer:
        for first, after in zip(indexed.document_indices, indexed.document_indices[1:], strict=False):
            for sequence in range(first, after):
                for part in np.array_split(indexed.tokens(sequence), 2):
                    writer.add(part)
                writer.end_sequence()
            writer.end_document()
    _assert_same_files(tmp_path / "copy", prefix)


def test_every_dtype_has_a_golden() -> None:
    assert {IndexedDataset.open(prefix).dtype for prefix in LOW_LEVEL} == {np.dtype(name) for name in TOKEN_TYPES}


def test_a_multimodal_set_opens() -> None:
    assert len(IndexedDataset.open(GOLDENS / "lowlevel" / "multimodal")) == 15


def test_dtypes_follow_megatrons_rule() -> None:
    rule = json.loads((GOLDENS / "lowlevel.json").read_text())["optimal_dtype"]
    assert {size: str(best_dtype(None if size == "None" else int(size))) for size in rule} == rule


@pytest.mark.parametrize("name", ["docstrings", "lists", "source", "topics", "topics_noeod"])
def test_prepare_writes_what_megatron_wrote(name: str, tmp_path: Path) -> None:
    """Megatron's tokenizers read special tokens that are written out in the text, so here we do too."""
    prepare(
        PrepareRequest(
            inputs=(GOLDENS / f"{name.removesuffix('_noeod')}.jsonl",),
            tokenizer=GOLDENS / "tokenizer",
            output_prefix=tmp_path / name,
            held_out_fraction=0.0,
            append_eod=not name.endswith("_noeod"),
            parse_special_tokens=True,
        )
    )
    _assert_same_files(tmp_path / f"{name}_text_document", GOLDENS / "data" / f"{name}_text_document")


def test_a_merge_is_megatrons(tmp_path: Path) -> None:
    golden = json.loads((GOLDENS / "lowlevel.json").read_text())
    merge([GOLDENS / name for name in golden["merged_of"]], tmp_path / "merged")
    for suffix, expected in golden["merged_sha256"].items():
        assert hashlib.sha256((tmp_path / f"merged{suffix}").read_bytes()).hexdigest() == expected


@pytest.mark.parametrize("encoder", ["tokenizers", "auto"])
def test_rows_are_those_of_wikitext_to_bin(encoder: Literal["tokenizers", "auto"], tmp_path: Path) -> None:
    """MindFormers' tool begins paragraphs with a token, ends them with none, and always stores int32."""
    folder = GOLDENS.parent / "mindspore" / "megatron"
    prepare(
        PrepareRequest(
            inputs=(folder / "wiki.train.tokens",),
            tokenizer=folder / "tokenizer.json",
            output_prefix=tmp_path / "stitch_64",
            held_out_fraction=0.0,
            format="wikitext",
            documents="paragraph",
            encoder=encoder,
            bos_token="<｜begin▁of▁sentence｜>",
            append_eod=False,
            rows="stitch",
            sequence_length=64,
            dtype="int32",
            parse_special_tokens=True,
        )
    )
    _assert_same_files(tmp_path / "stitch_64_text_document", folder / "stitch_64_text_document")


def _assert_same_files(ours: Path, golden: Path) -> None:
    for suffix in (".bin", ".idx"):
        assert Path(f"{ours}{suffix}").read_bytes() == Path(f"{golden}{suffix}").read_bytes()


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("is_sharded", [False, True])
def test_the_cyclic_sampler_gives_megatrons_micro_batches(number: int, is_sharded: bool) -> None:
    case = json.loads((GOLDENS / "cases" / "pure.json").read_text())["samplers"][number]
    with np.load(GOLDENS / "cases" / "pure.npz") as golden:
        for rank in range(case["dp"]):
            sampler = CyclicSampler(
                num_samples=case["total"],
                micro_batch_size=case["micro_batch"],
                data_rank=rank,
                data_size=case["dp"],
                is_sharded=is_sharded,
            )
            expected = golden[f"cyc{number}/shard{int(is_sharded)}/rank{rank}"]
            ours = list(sampler.epoch(case["consumed"]))
            assert len(ours) == len(expected)
            np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize("size", [1, 2, 100, 5000])
def test_the_permutation_is_torchs(size: int) -> None:
    for seed in (0, 1, 12345):
        expected = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
        np.testing.assert_array_equal(torch_permutation(size, seed), expected.numpy())


def test_a_sampler_with_nothing_left_says_so() -> None:
    """Megatron's: "no samples left to consume: 72, 64"."""
    stream = TokenStream(
        _Numbers(64), timeline=Timeline.even(batch_size=8), micro_batch_size=4, data_rank=0, data_size=2
    )
    stream.load_state_dict({"consumed_samples": 72})
    with pytest.raises(FirstlightError, match="72 of its 64 samples are consumed"):
        next(stream)


def test_sizes_of_the_sources_are_equal() -> None:
    for weights, sizes, surplus, expected in json.loads((GOLDENS / "cases" / "pure.json").read_text())[
        "sizes_per_dataset"
    ]:
        by_split = [sizes_to_build(normalise(weights), size, surplus) for size in sizes]
        assert [list(one) for one in zip(*by_split, strict=True)] == expected
