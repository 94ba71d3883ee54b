"""From a source of kind huggingface to a stream of `datasets`, and to the local files that it reads."""

import hashlib
import importlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firstlight.base.errors import InputError
from firstlight.config.data import HuggingFaceSource
from firstlight.data.byte_source import inner_suffix
from firstlight.data.encoder import TokenizersEncoder
from firstlight.data.fingerprint import fingerprint_of_files
from firstlight.data.samples import Dataset
from firstlight.data.saved_folder import is_saved_folder, saved_files
from firstlight.data.streamed_dataset import EncodedDocuments, StreamedDataset
from firstlight.data.streamed_texts import Shuffle, StreamedTexts
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer, tokenizer_files

_BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".txt": "text"}


@dataclass(frozen=True, kw_only=True)
class StreamedSource:
    """Text that a run reads: what it is called, the mark of it, and how samples are made of it."""

    source: HuggingFaceSource
    number: int
    tokenizer: Path
    seed: int

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.source.path

    def fingerprint(self) -> str:
        """Hex SHA-256 over what is asked for, the tokenizer and the local files; where these lie does not matter."""
        files = _local_files(self.source)
        asked = self.source.model_dump(mode="json", exclude={"weight", "path"} if files else {"weight"})
        marks = [fingerprint_of_files(files), fingerprint_of_files(tokenizer_files(self.tokenizer))]
        return hashlib.sha256(json.dumps([asked, *marks]).encode()).hexdigest()

    def texts(self) -> StreamedTexts:
        """The documents, from the beginning. Raises InputError when there is no such data set or column."""
        size = self.source.shuffle_buffer
        shuffle = Shuffle(size=size, seed=self.seed, source=self.number) if size else None
        stream = _open_stream(self.source)
        return StreamedTexts(stream, name=self.name, column=self.source.text_key, shuffle=shuffle)

    def build(self, texts: StreamedTexts, num_samples: int, sequence_length: int) -> Dataset:
        """Samples in which every document is ended by the tokenizer's end token.

        Always encoded with `tokenizers`: a run that goes on must find the tokens that it would have read.
        """
        tokenizer = load_tokenizer(self.tokenizer)
        tokenizer.encode_special_tokens = True
        end_id = end_of_document_id(tokenizer, self.tokenizer)
        documents = EncodedDocuments(texts, TokenizersEncoder(tokenizer), end_id)
        return StreamedDataset(
            documents, sequence_length=sequence_length, num_samples=num_samples, name=self.source.path
        )


def _open_stream(source: HuggingFaceSource) -> Any:
    """A `datasets.IterableDataset`. Raises InputError."""
    try:
        datasets = importlib.import_module("datasets")  # an optional package
    except ImportError:
        raise InputError(
            f"{source.path} is read with the package datasets, which is missing: pip install datasets"
        ) from None
    path = Path(source.path)
    try:
        if path.is_file():
            return _files(datasets, _builder(path), [path])
        if is_saved_folder(path):
            return _files(datasets, "arrow", saved_files(path, source.split))
        return datasets.load_dataset(source.path, source.name, split=source.split, streaming=True)
    except (OSError, ValueError, LookupError, RuntimeError) as error:
        # `datasets` has no class of its own for these: no such folder, split, configuration, no network.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"datasets cannot open {source.path}, split {source.split}: {reason}") from None


def _files(datasets: Any, builder: str, files: list[Path]) -> Any:
    names = [str(file) for file in files]
    return datasets.load_dataset(builder, data_files={"train": names}, split="train", streaming=True)


def _builder(path: Path) -> str:
    suffix = inner_suffix(path.name)
    if suffix not in _BUILDERS:
        raise InputError(f"{path}: a file is read by its suffix, and {suffix!r} is none of {', '.join(_BUILDERS)}")
    return _BUILDERS[suffix]


def _local_files(source: HuggingFaceSource) -> list[Path]:
    """The files that the source may read, none for a data set of the Hub."""
    path = Path(source.path)
    if path.is_file():
        return [path]
    if is_saved_folder(path):
        return saved_files(path, source.split)
    return sorted(file for file in path.rglob("*") if file.is_file() and not file.name.startswith("."))
