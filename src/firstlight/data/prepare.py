"""Text into tokens: one pass over a corpus, written as Megatron data sets for training and for evaluation."""

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from firstlight.base.errors import InputError
from firstlight.base.world import set_variables
from firstlight.data.corpus import Corpus, corpus_files, is_held_out, standard_library
from firstlight.data.document import Document, DocumentMode, Reader
from firstlight.data.indexed import best_dtype
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.data.partial_file import write_whole
from firstlight.data.progress import shown_progress
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer, tokenizer_file, vocabulary_size

_BATCH_CHARACTERS = 1 << 21
_BATCH_PIECES = 4096


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """What to prepare. No `inputs`: the Python standard library. `workers` None: one thread for each core.

    The number of threads is read when the process first encodes a batch; later requests cannot change it.
    """

    inputs: tuple[Path, ...] = ()
    tokenizer: Path
    output_prefix: Path
    held_out_fraction: float = 0.01
    documents: DocumentMode = "file"
    json_key: str = "text"
    eod_token: str | None = None
    append_eod: bool = True
    parse_special_tokens: bool = False
    """Whether a special token that is spelled out in the text becomes that token; else it is plain text."""
    workers: int | None = None


@dataclass(kw_only=True)
class SetSummary:
    """One data set: documents with text, tokens (ends of documents included), bytes of text."""

    prefix: str
    documents: int = 0
    tokens: int = 0
    bytes: int = 0

    @property
    def bytes_per_token(self) -> float:
        """Bytes of text for each token."""
        return self.bytes / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What was written. `eod_id` is None when no end of document was appended."""

    training: SetSummary
    held_out: SetSummary | None
    metadata: Path
    vocabulary_size: int
    eod_id: int | None


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """A part of a document, encoded by itself."""

    text: str
    is_held_out: bool
    starts_sequence: bool
    ends_document: bool


class _SetBuilder:
    """Puts the tokens of pieces into one data set, and counts."""

    def __init__(self, writer: IndexedWriter, eod_id: int | None) -> None:
        self.summary = SetSummary(prefix=str(writer.prefix))
        self._writer = writer
        self._eod = None if eod_id is None else np.array([eod_id], np.int64)
        self._has_text = False

    def add(self, piece: _Piece, ids: list[int]) -> None:
        """The tokens of the next piece. A sequence without tokens is left out, a document without is kept empty."""
        if ids:
            if piece.starts_sequence and self._writer.has_open_sequence:
                self._writer.end_sequence()
            self._writer.add(np.array(ids, self._writer.dtype))
            self._has_text = True
            self.summary.bytes += len(piece.text) if piece.text.isascii() else len(piece.text.encode())
        if piece.ends_document:
            self._end_document()

    def _end_document(self) -> None:
        if self._has_text and self._eod is not None:
            self._writer.add(self._eod)
        self._writer.end_document()
        self.summary.documents += self._has_text
        self.summary.tokens = self._writer.num_tokens
        self._has_text = False


def worker_variables(workers: int) -> dict[str, str]:
    """Environment variables that make `tokenizers` encode with so many threads, if set before it first does."""
    return {"RAYON_NUM_THREADS": str(workers), "TOKENIZERS_PARALLELISM": "true"}


def prepare(request: PrepareRequest) -> PrepareSummary:
    """Write `<output_prefix>_text_document.bin/.idx`, with a held-out fraction also
    `<output_prefix>_heldout_text_document.bin/.idx`, and `<output_prefix>.json` about them.

    Whole documents are held out, by their names. The files depend on text and tokenizer only, not on the number of
    threads, and appear when all is well. Documents above 2**20 characters are encoded in pieces cut at line ends.
    Raises InputError when there is no text, a set would have none, or a file cannot be read.
    """
    if not 0 <= request.held_out_fraction < 1:
        raise InputError(f"the held-out fraction {request.held_out_fraction} is not at least 0 and below 1")
    if request.workers is not None:
        set_variables(worker_variables(request.workers))
    tokenizer = load_tokenizer(request.tokenizer)
    tokenizer.encode_special_tokens = not request.parse_special_tokens
    eod_id = end_of_document_id(tokenizer, request.tokenizer, request.eod_token) if request.append_eod else None
    corpus = _corpus(request)
    training, held_out = _write(corpus, tokenizer, request, eod_id)
    summary = PrepareSummary(
        training=training,
        held_out=held_out,
        metadata=Path(f"{request.output_prefix}.json"),
        vocabulary_size=vocabulary_size(tokenizer),
        eod_id=eod_id,
    )
    content = json.dumps(_metadata(summary, request, corpus, tokenizer), indent=2, ensure_ascii=False)
    write_whole(summary.metadata, f"{content}\n".encode())
    return summary


def _corpus(request: PrepareRequest) -> Corpus:
    files = corpus_files(request.inputs) if request.inputs else standard_library()
    return Corpus(files, Reader(mode=request.documents, json_key=request.json_key))


def _write(
    corpus: Corpus, tokenizer: Tokenizer, request: PrepareRequest, eod_id: int | None
) -> tuple[SetSummary, SetSummary | None]:
    names = ["_text_document", "_heldout_text_document"][: 1 + (request.held_out_fraction > 0)]
    dtype = best_dtype(vocabulary_size(tokenizer))
    with ExitStack() as stack:
        prefixes = [Path(f"{request.output_prefix}{name}") for name in names]
        writers = [stack.enter_context(IndexedWriter(prefix, dtype)) for prefix in prefixes]
        builders = [_SetBuilder(writer, eod_id) for writer in writers]
        advance = stack.enter_context(shown_progress("tokenizing", corpus.num_bytes))
        for batch in _batches(_pieces(corpus.documents(), request.held_out_fraction)):
            encodings = tokenizer.encode_batch_fast([piece.text for piece in batch], add_special_tokens=False)
            for piece, encoding in zip(batch, encodings, strict=True):
                builders[piece.is_held_out].add(piece, encoding.ids)
            advance(num_bytes=corpus.num_read, num_tokens=sum(writer.num_tokens for writer in writers))
        summaries = [builder.summary for builder in builders]
        _require_text(summaries, request.held_out_fraction)
    return summaries[0], summaries[1] if len(summaries) > 1 else None


def _pieces(documents: Iterable[Document], held_out_fraction: float) -> Iterator[_Piece]:
    """The pieces of all documents. The last of each says so; a document without any has one without text."""
    for document in documents:
        is_out = is_held_out(document.name, held_out_fraction)
        text, starts = "", True
        for sequence in document.sequences:
            for number, following in enumerate(sequence):
                if text:
                    yield _Piece(text=text, is_held_out=is_out, starts_sequence=starts, ends_document=False)
                text, starts = following, number == 0
        yield _Piece(text=text, is_held_out=is_out, starts_sequence=starts, ends_document=True)


def _batches(pieces: Iterable[_Piece]) -> Iterator[list[_Piece]]:
    batch: list[_Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= _BATCH_CHARACTERS or len(batch) >= _BATCH_PIECES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _require_text(summaries: list[SetSummary], held_out_fraction: float) -> None:
    num_documents = sum(summary.documents for summary in summaries)
    if num_documents == 0:
        raise InputError("the input has no document with text; name files that have some with --input")
    for summary, which in zip(summaries, ("for training", "held out"), strict=False):
        if summary.documents == 0:
            raise InputError(
                f"with a held-out fraction of {held_out_fraction}, none of the {num_documents} documents is {which}; "
                "use --documents line or --documents blank-line for more documents, another --held-out-fraction, "
                "or --held-out-fraction 0"
            )


def _metadata(summary: PrepareSummary, request: PrepareRequest, corpus: Corpus, tokenizer: Tokenizer) -> dict[str, Any]:
    inputs: dict[str, Any] = {"files": len(corpus.files), "bytes": corpus.num_read, "sha256": corpus.sha256()}
    if not request.inputs:
        inputs["corpus"] = "the source of the Python standard library"
        inputs["python"] = platform.python_version()
    sets = {"training": summary.training, "held_out": summary.held_out}
    eod_token = None if summary.eod_id is None else tokenizer.id_to_token(summary.eod_id)
    return {
        "sets": {
            name: asdict(one) | {"prefix": Path(one.prefix).name, "bytes_per_token": one.bytes_per_token}
            for name, one in sets.items()
            if one is not None
        },
        "held_out_fraction": request.held_out_fraction,
        "documents": request.documents,
        "tokenizer": {
            "sha256": hashlib.sha256(tokenizer_file(request.tokenizer).read_bytes()).hexdigest(),
            "vocabulary_size": summary.vocabulary_size,
            "eod_id": summary.eod_id,
            "eod_token": eod_token,
            "parse_special_tokens": request.parse_special_tokens,
        },
        "inputs": inputs,
    }
