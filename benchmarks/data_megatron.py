"""megatron-core's part of bench_data.py, run by an interpreter that has megatron-core (and `tokenizers`)."""

import argparse
import importlib
import json
import logging
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measured import Stopwatch

_SEED = 1234


class StandInTokenizer:
    """What GPTDataset asks of a tokenizer. Id 0 is padding, and is not in the data."""

    vocab_size = 50000
    eod = 0
    pad = 0
    unique_identifiers = {"class": "StandInTokenizer"}


def dataset(prefix: Path, sequence_length: int, cache: Path | None) -> Any:
    """One epoch of a GPTDataset. Without `cache` it keeps its index below the prefix."""
    gpt = importlib.import_module("megatron.core.datasets.gpt_dataset")
    split = importlib.import_module("megatron.core.datasets.utils").Split.train
    config = gpt.GPTDatasetConfig(
        random_seed=_SEED,
        sequence_length=sequence_length,
        blend=([str(prefix)], None),
        split="1,0,0",
        path_to_cache=str(cache) if cache else None,
        tokenizer=StandInTokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        allow_ambiguous_pad_tokens=True,
    )
    indexed = gpt.GPTDataset.build_low_level_dataset(str(prefix), config)
    indices = np.arange(len(indexed), dtype=np.int32)
    return gpt.GPTDataset(indexed, str(prefix), indices, None, split, config)


def index(wanted: argparse.Namespace) -> None:
    """Open a data set, have its order, read one sample."""
    importlib.import_module("megatron.core.datasets.gpt_dataset")
    watch = Stopwatch()
    opened = dataset(wanted.prefix, wanted.sequence_length, wanted.cache)
    opened[0]
    watch.report(samples=len(opened))


def batches(wanted: argparse.Namespace) -> None:
    """Read batches in one thread, collated as torch's DataLoader does it."""
    torch.set_num_threads(1)
    opened = dataset(wanted.prefix, wanted.sequence_length, wanted.cache)
    size = wanted.batch_size
    numbers = torch.utils.data.BatchSampler(range(len(opened)), batch_size=size, drop_last=True)
    loader = iter(torch.utils.data.DataLoader(opened, batch_sampler=numbers, num_workers=0))
    checksum = 0
    for _ in range(wanted.checked):
        batch = next(loader)
        for name in ("tokens", "labels"):
            checksum = zlib.crc32(batch[name].numpy(), checksum)
    watch = Stopwatch()
    for _ in range(wanted.batches):
        next(loader)
    watch.report(samples=size * wanted.batches, checksum=checksum)


def prepared(wanted: argparse.Namespace) -> None:
    """Text to .bin and .idx, one document at a time, as one worker of preprocess_data.py does it."""
    indexed = importlib.import_module("megatron.core.datasets.indexed_dataset")
    tokenizer = importlib.import_module("tokenizers").Tokenizer.from_file(str(wanted.tokenizer))
    watch = Stopwatch()
    dtype = indexed.DType.optimal_dtype(tokenizer.get_vocab_size())
    builder = indexed.IndexedDatasetBuilder(f"{wanted.output}.bin", dtype=dtype)
    num_tokens = 0
    with wanted.text.open(encoding="utf-8") as file:
        for line in file:
            ids = tokenizer.encode(json.loads(line)["text"], add_special_tokens=False).ids
            if ids:
                ids.append(0)
            builder.add_document(ids, [len(ids)] if ids else [])
            num_tokens += len(ids)
    builder.finalize(f"{wanted.output}.idx")
    watch.report(tokens=num_tokens)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=list(_COMMANDS))
    for name in ("--prefix", "--cache", "--text", "--tokenizer", "--output"):
        parser.add_argument(name, type=Path)
    for name in ("--sequence-length", "--batch-size", "--batches", "--checked"):
        parser.add_argument(name, type=int)
    return parser.parse_args()


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "index": index,
    "batches": batches,
    "prepared": prepared,
}

if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    arguments = _arguments()
    _COMMANDS[arguments.what](arguments)
