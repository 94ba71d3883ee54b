"""Firstlight's part of bench_data.py: each command does one thing in a process of its own and prints what it took."""

import argparse
import importlib
import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measured import Stopwatch
from firstlight.config.timeline import Timeline
from firstlight.data.contiguous import ContiguousDataset, ContiguousTokens
from firstlight.data.encoder import TokenizersEncoder
from firstlight.data.epochs import Epochs
from firstlight.data.gpt_dataset import GptDataset
from firstlight.data.indexed import IndexedDataset
from firstlight.data.order_cache import open_order
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.samples import Dataset, read_samples
from firstlight.data.stream import TokenStream
from firstlight.data.tokenizer import load_tokenizer

_SEED = 1234
_FIRST = np.zeros(1, np.int64)


def ordered(prefix: Path, sequence_length: int, cache: Path | None) -> GptDataset:
    """One epoch in Megatron's order."""
    indexed = IndexedDataset.open(prefix)
    order = open_order(
        indexed, range(len(indexed)), num_samples=None, sequence_length=sequence_length, seed=_SEED, cache=cache
    )
    return GptDataset(indexed, order, sequence_length)


def index(wanted: argparse.Namespace) -> None:
    """Open a data set, have its order, read one sample."""
    watch = Stopwatch()
    dataset = ordered(wanted.prefix, wanted.sequence_length, wanted.cache)
    read_samples(dataset, _FIRST)
    watch.report(samples=len(dataset))


def permuted(wanted: argparse.Namespace) -> None:
    """The same without an index."""
    watch = Stopwatch()
    tokens = ContiguousTokens.open(wanted.prefix, "1,0,0")
    cut = ContiguousDataset(tokens, wanted.sequence_length)
    dataset: Dataset = Epochs(cut, num_samples=len(cut), seed=_SEED)
    read_samples(dataset, _FIRST)
    watch.report(samples=len(dataset))


def batches(wanted: argparse.Namespace) -> None:
    """Read batches in one thread; `checksum` is of all tokens and labels."""
    dataset = ordered(wanted.prefix, wanted.sequence_length, None)
    size = wanted.batch_size
    stream = TokenStream(
        dataset, timeline=Timeline.even(batch_size=size), micro_batch_size=size, data_rank=0, data_size=1
    )
    checksum = 0
    for _ in range(wanted.checked):
        batch = next(stream)
        for rows in (batch.tokens, batch.labels):
            checksum = zlib.crc32(rows.astype(np.int64).tobytes(), checksum)
    watch = Stopwatch()
    for _ in range(wanted.batches):
        next(stream)
    watch.report(samples=size * wanted.batches, checksum=checksum)


def prepared(wanted: argparse.Namespace) -> None:
    """Text to .bin and .idx, with everything that `firstlight prepare` does."""
    watch = Stopwatch()
    request = PrepareRequest(
        inputs=(wanted.text,), tokenizer=wanted.tokenizer, output_prefix=wanted.output, held_out_fraction=0
    )
    summary = prepare(request)
    watch.report(tokens=summary.training.tokens, encoder=summary.encoder)


def encoded(wanted: argparse.Namespace) -> None:
    """Only the encoder's own work: all texts in memory, in one call a batch, ids dropped."""
    texts = [json.loads(line)["text"] for line in wanted.text.read_text(encoding="utf-8").splitlines()]
    tokenizer = load_tokenizer(wanted.tokenizer)
    if wanted.encoder == "gigatoken":
        description = json.loads(tokenizer.to_str())
        gigatoken = importlib.import_module("gigatoken")
        encode = gigatoken.Tokenizer.from_json(json.dumps(description)).encode_batch
    else:
        encode = TokenizersEncoder(tokenizer).encode
    watch = Stopwatch()
    num_tokens = 0
    for start in range(0, len(texts), 4096):
        result = encode(texts[start : start + 4096])
        if wanted.encoder == "gigatoken":
            num_tokens += len(np.asarray(result.layout.content.data))
        else:
            num_tokens += sum(map(len, result))
    watch.report(tokens=num_tokens)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=list(_COMMANDS))
    for name in ("--prefix", "--cache", "--text", "--tokenizer", "--output"):
        parser.add_argument(name, type=Path)
    for name in ("--sequence-length", "--batch-size", "--batches", "--checked"):
        parser.add_argument(name, type=int)
    parser.add_argument("--encoder", choices=["gigatoken", "tokenizers"])
    return parser.parse_args()


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "index": index,
    "permuted": permuted,
    "batches": batches,
    "prepared": prepared,
    "encoded": encoded,
}

if __name__ == "__main__":
    arguments = _arguments()
    _COMMANDS[arguments.what](arguments)
