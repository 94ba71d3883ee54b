"""Fill in the middle follows from seed and sample number, and keeps every document's text."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from firstlight.data.fim import FimDataset, FimTokens, Rearranging
from firstlight.data.gpt_dataset import GptDataset
from firstlight.data.gpt_order import build_order
from firstlight.data.indexed import IndexedDataset
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.data.samples import read_samples

END, PREFIX, MIDDLE, SUFFIX = 256, 257, 258, 259
TOKENS = FimTokens(prefix=PREFIX, middle=MIDDLE, suffix=SUFFIX, end_of_document=END)


@pytest.fixture
def tokenizer() -> Tokenizer:
    """One id a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def rearranging(tokenizer: Tokenizer, rate: float, spm_rate: float = 0.5) -> Rearranging:
    return Rearranging.with_tokenizer(tokenizer, TOKENS, rate=rate, spm_rate=spm_rate)


@pytest.mark.parametrize("spm_rate", [0.0, 1.0])
def test_the_parts_are_those_of_the_text(tokenizer: Tokenizer, spm_rate: float) -> None:
    text = "def f(x):\n    return 2 * x\n"
    ids = tokenizer.encode(text).ids
    how = rearranging(tokenizer, 1.0, spm_rate)
    for seed in range(20):
        out = list(how.document(ids, np.random.RandomState(seed)))
        first, second = out.index(SUFFIX), out.index(MIDDLE)
        assert out[0] == PREFIX
        if spm_rate:
            assert first == 1
            joined = out[second + 1 :] + out[2:second]
        else:
            joined = out[1:first] + out[second + 1 :] + out[first + 1 : second]
        assert tokenizer.decode(joined) == text


def test_an_empty_document_keeps_its_end(tokenizer: Tokenizer) -> None:
    out, begins = rearranging(tokenizer, 0.0).sample([END, END, 5, END, 6], np.random.RandomState(0))
    assert out == [END, END, 5, END, 6]
    assert begins == [0, 1, 2, 4]


def test_a_sample_does_not_depend_on_what_was_read_before(tokenizer: Tokenizer, tmp_path) -> None:
    with IndexedWriter(tmp_path / "set", np.dtype("int32")) as writer:
        for number in range(30):
            writer.add(np.array([*tokenizer.encode(f"document number {number} " * 3).ids, END]))
            writer.end_sequence()
            writer.end_document()
    indexed = IndexedDataset.open(tmp_path / "set")
    order = build_order(indexed.lengths, range(30), num_samples=None, sequence_length=64, seed=1)
    inner = GptDataset(indexed, order, 64)
    plain = read_samples(inner, np.arange(len(inner)))
    dataset = FimDataset(inner, rearranging(tokenizer, 0.7), seed=3)
    forward = read_samples(dataset, np.arange(len(inner)))
    backward = read_samples(dataset, np.arange(len(inner))[::-1].copy())
    np.testing.assert_array_equal(forward.tokens, backward.tokens[::-1])
    np.testing.assert_array_equal(forward.begins, backward.begins[::-1])
    assert (forward.num_real <= plain.num_real).all()
    changed = (forward.tokens != plain.tokens).any(axis=1)
    assert changed.mean() > 0.5
    assert (
        read_samples(FimDataset(inner, rearranging(tokenizer, 0), seed=3), np.arange(4)).tokens == plain.tokens[:4]
    ).all()
