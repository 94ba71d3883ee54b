"""Text into tokens: one pass over a corpus, written as Megatron data sets for training and for evaluation."""

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.base.world import set_variables
from firstlight.data.conveyor import Behind, ahead
from firstlight.data.corpus import (
    STANDARD_INPUT,
    Corpus,
    corpus_files,
    is_held_out,
    kept_standard_input,
    standard_library,
)
from firstlight.data.document import CorpusFile, Document, DocumentMode, FileFormat, Reader
from firstlight.data.encoder import Choice, Encoder, EncoderChoice, EncodersDifferError, Ids, choose_encoder
from firstlight.data.faults import BadDocumentError, Omissions
from firstlight.data.indexed import best_dtype
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.data.partial_file import write_whole
from firstlight.data.progress import shown_progress
from firstlight.data.rows import RowKind, RowWriter
from firstlight.data.set_builder import Edges, Piece, SetBuilder, SetSummary
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer, token_id, tokenizer_file, vocabulary_size

_BATCH_CHARACTERS = 1 << 23
_BATCH_PIECES = 1 << 15


@dataclass(frozen=True, kw_only=True)
class PrepareRequest:
    """What to prepare. No `inputs`: the Python standard library. `workers` None: one thread for each core.

    The number of threads is read when the process first encodes a batch; later requests cannot change it.
    """

    inputs: tuple[Path, ...] = ()
    tokenizer: Path
    output_prefix: Path
    held_out_fraction: float = 0.01
    format: FileFormat = "auto"
    documents: DocumentMode | None = None
    """None: files, or articles of WikiText."""
    json_key: str = "text"
    on_error: Literal["stop", "skip"] = "stop"
    """What to do about a document that cannot be read."""
    encoder: EncoderChoice = "auto"
    bos_token: str | None = None
    """The token that begins every document; None: no token does."""
    eod_token: str | None = None
    append_eod: bool = True
    parse_special_tokens: bool = False
    """Whether a special token that is spelled out in the text becomes that token; else it is plain text."""
    rows: RowKind | None = None
    """Rows of `sequence_length` + 1 tokens instead of documents."""
    sequence_length: int | None = None
    pad_token: str | None = None
    dtype: Literal["auto", "uint16", "int32"] = "auto"
    workers: int | None = None

    @property
    def document_mode(self) -> DocumentMode:
        """What one document is, said or not."""
        return self.documents or ("article" if self.format == "wikitext" else "file")


@dataclass(frozen=True, kw_only=True)
class PrepareSummary:
    """What was written. `eod_id` is None when no end of document was appended."""

    training: SetSummary
    held_out: SetSummary | None
    metadata: Path
    vocabulary_size: int
    eod_id: int | None
    encoder: str
    num_left_out: int
    """Documents that could not be read."""


def worker_variables(workers: int) -> dict[str, str]:
    """Environment variables that make `tokenizers` encode with so many threads, if set before it first does."""
    return {"RAYON_NUM_THREADS": str(workers), "TOKENIZERS_PARALLELISM": "true"}


def prepare(request: PrepareRequest) -> PrepareSummary:
    """Write `<output_prefix>_text_document.bin/.idx`, with a held-out fraction also
    `<output_prefix>_heldout_text_document.bin/.idx`, and `<output_prefix>.json` about them.

    Whole documents are held out, by their names. The files depend on text and tokenizer only, not on the number of
    threads or the encoder, and appear when all is well. Documents above 2**20 characters are encoded in pieces cut at
    line ends. Raises InputError when there is no text, a set would have none, or a file or document cannot be read.
    """
    _require_sense(request)
    if request.workers is not None:
        set_variables(worker_variables(request.workers))
    tokenizer = load_tokenizer(request.tokenizer)
    tokenizer.encode_special_tokens = not request.parse_special_tokens
    plan = _plan(request, tokenizer)
    with ExitStack() as stack:
        kept = None
        if STANDARD_INPUT in request.inputs:
            kept = stack.enter_context(kept_standard_input(request.output_prefix.parent))
        files = corpus_files(request.inputs, kept) if request.inputs else standard_library()
        written = _write_with(choose_encoder(tokenizer, request.encoder), files, request, plan)
    summary = PrepareSummary(
        training=written.sets[0],
        held_out=written.sets[1] if len(written.sets) > 1 else None,
        metadata=Path(f"{request.output_prefix}.json"),
        vocabulary_size=plan.vocabulary_size,
        eod_id=plan.edges.end_id,
        encoder=written.encoder.name,
        num_left_out=written.omissions.num_documents,
    )
    content = json.dumps(_metadata(summary, request, written, tokenizer), indent=2, ensure_ascii=False)
    write_whole(summary.metadata, f"{content}\n".encode())
    return summary


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What follows from the request and its tokenizer."""

    vocabulary_size: int
    dtype: np.dtype[Any]
    edges: Edges
    pad_id: int | None


@dataclass(kw_only=True)
class _Written:
    """What was written, from what, with what."""

    corpus: Corpus
    encoder: Encoder
    omissions: Omissions = field(default_factory=Omissions)
    sets: Sequence[SetSummary] = ()
    reason: str | None = None


def _require_sense(request: PrepareRequest) -> None:
    if not 0 <= request.held_out_fraction < 1:
        raise InputError(f"the held-out fraction {request.held_out_fraction} is not at least 0 and below 1")
    wanted = ("article", "paragraph") if request.format == "wikitext" else ("file", "line", "blank-line")
    if request.documents is not None and request.documents not in wanted:
        raise InputError(
            f"--documents {request.documents} does not go with --format {request.format}; use {' or '.join(wanted)}"
        )
    if (request.rows is None) != (request.sequence_length is None):
        raise InputError("--rows and --sequence-length need each other: rows have one token more than a sequence")
    if request.sequence_length is not None and request.sequence_length < 1:
        raise InputError(f"--sequence-length {request.sequence_length} is not at least 1")
    if request.rows == "pad" and request.pad_token is None:
        raise InputError("--rows pad fills rows up with a token; name it with --pad-token")


def _plan(request: PrepareRequest, tokenizer: Tokenizer) -> _Plan:
    size = vocabulary_size(tokenizer)
    dtype = best_dtype(size) if request.dtype == "auto" else np.dtype(request.dtype)
    if size - 1 > np.iinfo(dtype).max:
        raise InputError(f"--dtype {request.dtype} cannot hold the {size} ids of {request.tokenizer}; use --dtype auto")
    path = request.tokenizer
    begin, pad = request.bos_token, request.pad_token
    return _Plan(
        vocabulary_size=size,
        dtype=dtype,
        edges=Edges(
            begin_id=None if begin is None else token_id(tokenizer, path, begin, "--bos-token"),
            end_id=end_of_document_id(tokenizer, path, request.eod_token) if request.append_eod else None,
        ),
        pad_id=None if pad is None else token_id(tokenizer, path, pad, "--pad-token"),
    )


def _write_with(choice: Choice, files: list[CorpusFile], request: PrepareRequest, plan: _Plan) -> _Written:
    """Write the sets; if the fast encoder is found to differ on the way, once more from the start with the other."""
    reason = choice.reason
    if reason is not None:
        get_logger().info("encoding with tokenizers: %s", reason)
    elif choice.fallback is not None:
        try:
            return _write(choice.encoder, files, request, plan)
        except EncodersDifferError as difference:
            if request.encoder == "gigatoken":
                raise InputError(f"{difference}; use --encoder auto or --encoder tokenizers") from None
            reason = str(difference)
            get_logger().warning("encoding again from the start with tokenizers: %s", reason)
    written = _write(choice.fallback or choice.encoder, files, request, plan)
    written.reason = reason
    return written


def _write(encoder: Encoder, files: list[CorpusFile], request: PrepareRequest, plan: _Plan) -> _Written:
    reader = Reader(mode=request.document_mode, format=request.format, json_key=request.json_key)
    written = _Written(corpus=Corpus(files, reader), encoder=encoder)
    omissions = written.omissions if request.on_error == "skip" else None
    names = ["_text_document", "_heldout_text_document"][: 1 + (request.held_out_fraction > 0)]
    with ExitStack() as stack:
        prefixes = [Path(f"{request.output_prefix}{name}") for name in names]
        writers = [stack.enter_context(IndexedWriter(prefix, plan.dtype)) for prefix in prefixes]
        builders = [SetBuilder(_in_rows(writer, request, plan), plan.edges) for writer in writers]
        advance = stack.enter_context(shown_progress("tokenizing", written.corpus.num_bytes))
        documents = written.corpus.documents(None if omissions is None else omissions.add)

        def write(encoded: tuple[list[Piece], list[Ids]]) -> None:
            for piece, ids in zip(*encoded, strict=True):
                builders[piece.is_held_out].add(piece, ids)
            advance(num_bytes=written.corpus.num_read, num_tokens=sum(writer.num_tokens for writer in writers))

        with Behind(write) as behind:
            for batch in ahead(_batches(_pieces(documents, request.held_out_fraction, omissions))):
                behind.give((batch, encoder.encode([piece.text for piece in batch])))
        written.sets = [builder.summary for builder in builders]
        _require_text(written.sets, request.held_out_fraction)
    return written


def _in_rows(writer: IndexedWriter, request: PrepareRequest, plan: _Plan) -> IndexedWriter | RowWriter:
    if request.rows is None or request.sequence_length is None:
        return writer
    return RowWriter(writer, request.rows, request.sequence_length + 1, plan.pad_id)


def _pieces(documents: Iterable[Document], held_out_fraction: float, omissions: Omissions | None) -> Iterator[Piece]:
    """The pieces of all documents. With `omissions`, documents that cannot be read go there and are dropped."""
    for document in documents:
        is_out = is_held_out(document.name, held_out_fraction)
        try:
            yield from _pieces_of(document, is_held_out=is_out)
        except BadDocumentError as fault:
            if omissions is None:
                raise
            omissions.add(fault)
            yield Piece(text="", is_held_out=is_out, drops_document=True)


def _pieces_of(document: Document, *, is_held_out: bool) -> Iterator[Piece]:
    """The last piece ends the document; one without any text has a piece without text."""
    text, starts = "", True
    for sequence in document.sequences:
        for number, following in enumerate(sequence):
            if text:
                yield Piece(text=text, is_held_out=is_held_out, starts_sequence=starts)
            text, starts = following, number == 0
    yield Piece(text=text, is_held_out=is_held_out, starts_sequence=starts, ends_document=True)


def _batches(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    batch: list[Piece] = []
    size = 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece.text)
        if size >= _BATCH_CHARACTERS or len(batch) >= _BATCH_PIECES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _require_text(summaries: Sequence[SetSummary], held_out_fraction: float) -> None:
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
        if summary.rows == 0:
            raise InputError(f"{summary.tokens_left_out} tokens {which} do not fill one row; use shorter rows")


def _metadata(
    summary: PrepareSummary, request: PrepareRequest, written: _Written, tokenizer: Tokenizer
) -> dict[str, Any]:
    corpus = written.corpus
    inputs: dict[str, Any] = {"files": len(corpus.files), "bytes": corpus.num_read, "sha256": corpus.sha256()}
    if not request.inputs:
        inputs["corpus"] = "the source of the Python standard library"
        inputs["python"] = platform.python_version()
    sets = {"training": summary.training, "held_out": summary.held_out}
    eod_token = None if summary.eod_id is None else tokenizer.id_to_token(summary.eod_id)
    encoder = {"name": written.encoder.name, "version": written.encoder.version}
    return {
        "sets": {name: _described(one) for name, one in sets.items() if one is not None},
        "held_out_fraction": request.held_out_fraction,
        "format": request.format,
        "documents": request.document_mode,
        "rows": None if request.rows is None else {"kind": request.rows, "sequence_length": request.sequence_length},
        "tokenizer": {
            "sha256": hashlib.sha256(tokenizer_file(request.tokenizer).read_bytes()).hexdigest(),
            "vocabulary_size": summary.vocabulary_size,
            "bos_token": request.bos_token,
            "eod_id": summary.eod_id,
            "eod_token": eod_token,
            "parse_special_tokens": request.parse_special_tokens,
        },
        "encoder": encoder if written.reason is None else encoder | {"reason": written.reason},
        "inputs": inputs,
        "left_out": {"documents": written.omissions.num_documents, "messages": written.omissions.messages},
    }


def _described(one: SetSummary) -> dict[str, Any]:
    facts = asdict(one) | {"prefix": Path(one.prefix).name, "bytes_per_token": one.bytes_per_token}
    if one.rows is None:
        for name in ("rows", "tokens_left_out", "documents_cut"):
            del facts[name]
    return facts
