"""Text into tokens: one pass over a corpus, written as Megatron data sets for training and for evaluation."""

import hashlib
import json
import platform
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from firstlight.base.errors import InputError
from firstlight.base.log import get_logger
from firstlight.base.world import set_variables
from firstlight.data.batch import Batch, Batches
from firstlight.data.conveyor import Behind, ahead
from firstlight.data.corpus import (
    STANDARD_INPUT,
    Corpus,
    CorpusPosition,
    corpus_files,
    kept_standard_input,
    standard_library,
    sweep_standard_input,
)
from firstlight.data.document import CorpusFile, DocumentMode, FileFormat, Reader
from firstlight.data.encoder import Choice, Encoder, EncoderChoice, EncodersDifferError, Ids, choose_encoder
from firstlight.data.faults import Omissions
from firstlight.data.histogram import histogram_facts, histogram_file
from firstlight.data.indexed import best_dtype
from firstlight.data.indexed_writer import INTERRUPTIONS
from firstlight.data.journal import Journal, JournalKey, Progress
from firstlight.data.metadata import file_marks
from firstlight.data.partial_file import SUFFIX, write_partial
from firstlight.data.progress import shown_progress
from firstlight.data.rows import RowKind
from firstlight.data.set_builder import Edges, SetSummary
from firstlight.data.set_files import SET_SUFFIXES, RowShape, SetFiles, SetFormat, SetState
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer, token_id, tokenizer_files, vocabulary_size


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
    resume: bool = True
    """Whether to go on where an earlier run of the same, that was killed, had come to."""
    journal_seconds: float = 10.0
    """How often to note how far it is."""

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
    line ends. A run that was killed, started again with the same request and input, goes on where it was and gives the
    same files; not one of standard input. Raises InputError when there is no text, a set would have none, or a file or
    document cannot be read.
    """
    _require_sense(request)
    if request.workers is not None:
        set_variables(worker_variables(request.workers))
    tokenizer = load_tokenizer(request.tokenizer)
    tokenizer.encode_special_tokens = not request.parse_special_tokens
    plan = _plan(request, tokenizer)
    choice = choose_encoder(tokenizer, request.encoder)
    sweep_standard_input(request.output_prefix)
    with ExitStack() as stack:
        kept = None
        if STANDARD_INPUT in request.inputs:
            get_logger().info("standard input cannot be read twice: a run that is stopped cannot be continued")
            kept = stack.enter_context(kept_standard_input(request.output_prefix))
        files = corpus_files(request.inputs, kept) if request.inputs else standard_library()
        journal = Journal(request.output_prefix, _key(request, plan, choice, files))
        progress = journal.read() if request.resume and kept is None else None
        if progress is None:
            journal.sweep()
        else:
            get_logger().info("going on after %s", progress.place)
        if progress is None or not progress.files:
            job = _Job(request=request, plan=plan, tokenizer=tokenizer, files=files, journal=journal)
            progress = _write_with(choice, job, progress)
        journal.publish(progress.files)
    sets = [one.summary for one in progress.sets]
    return PrepareSummary(
        training=sets[0],
        held_out=sets[1] if len(sets) > 1 else None,
        metadata=Path(f"{request.output_prefix}.json"),
        vocabulary_size=plan.vocabulary_size,
        eod_id=plan.edges.end_id,
        encoder=progress.encoder,
        num_left_out=progress.num_left_out,
    )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What follows from the request and its tokenizer."""

    vocabulary_size: int
    edges: Edges
    sets: SetFormat


@dataclass(frozen=True, kw_only=True)
class _Job:
    """What is to be done, and the journal of it."""

    request: PrepareRequest
    plan: _Plan
    tokenizer: Tokenizer
    files: list[CorpusFile]
    journal: Journal


@dataclass(kw_only=True)
class _Written:
    """What was written, from what, with what."""

    corpus: Corpus
    encoder: Encoder
    reason: str | None
    omissions: Omissions
    files: SetFiles

    def progress(self, position: CorpusPosition, sets: Sequence[SetState], files: Sequence[Path] = ()) -> Progress:
        """What the journal is to say."""
        return Progress(
            encoder=self.encoder.name,
            reason=self.reason,
            position=position,
            num_left_out=self.omissions.num_documents,
            messages=tuple(self.omissions.messages),
            sets=sets,
            files=[str(path) for path in files],
        )


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
    edges = Edges(
        begin_id=None if begin is None else token_id(tokenizer, path, begin, "--bos-token"),
        end_id=end_of_document_id(tokenizer, path, request.eod_token) if request.append_eod else None,
    )
    pad_id = None if pad is None else token_id(tokenizer, path, pad, "--pad-token")
    rows = None
    if request.rows is not None and request.sequence_length is not None:
        rows = RowShape(kind=request.rows, length=request.sequence_length + 1, pad_id=pad_id)
    return _Plan(
        vocabulary_size=size,
        edges=edges,
        sets=SetFormat(dtype=dtype, vocabulary_size=size, edges=edges, rows=rows),
    )


def _key(request: PrepareRequest, plan: _Plan, choice: Choice, files: Sequence[CorpusFile]) -> JournalKey:
    told = {
        name: value for name, value in vars(request).items() if name not in ("workers", "resume", "journal_seconds")
    }
    facts = [file.path.stat() for file in files]
    encoders = [f"{one.name} {one.version}" for one in (choice.encoder, choice.fallback) if one is not None]
    inputs = [
        (str(file.path.absolute()), file.name, fact.st_size, fact.st_mtime_ns)
        for file, fact in zip(files, facts, strict=True)
    ]
    request_facts = [repr(sorted(told.items())), repr(plan), _tokenizer_digest(request), encoders]
    return JournalKey(request=_digest(request_facts), inputs=_digest(inputs))


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _tokenizer_digest(request: PrepareRequest) -> str:
    content = b"".join(file.read_bytes() for file in tokenizer_files(request.tokenizer))
    return hashlib.sha256(content).hexdigest()


def _write_with(choice: Choice, job: _Job, done: Progress | None) -> Progress:
    """Write the sets; if the fast encoder is found to differ on the way, once more from the start with the other.

    Returns what is left to do: to publish the files.
    """
    reason = choice.reason or (done.reason if done else None)
    if reason is not None:
        get_logger().info("encoding with tokenizers: %s", reason)
    elif choice.fallback is not None:
        try:
            return _write(choice.encoder, job, done)
        except EncodersDifferError as difference:
            if job.request.encoder == "gigatoken":
                raise InputError(f"{difference}; use --encoder auto or --encoder tokenizers") from None
            reason = str(difference)
            done = None
            get_logger().warning("encoding again from the start with tokenizers: %s", reason)
    return _write(choice.fallback or choice.encoder, job, done, reason)


def _write(encoder: Encoder, job: _Job, done: Progress | None, reason: str | None = None) -> Progress:
    request, plan = job.request, job.plan
    reader = Reader(mode=request.document_mode, format=request.format, json_key=request.json_key)
    suffixes = SET_SUFFIXES[: 1 + (request.held_out_fraction > 0)]
    prefixes = [Path(f"{request.output_prefix}{suffix}") for suffix in suffixes]
    written = _Written(
        corpus=Corpus(job.files, reader, done.position if done else None),
        encoder=encoder,
        reason=reason,
        omissions=Omissions(done.num_left_out, done.messages) if done else Omissions(),
        files=SetFiles(prefixes, plan.sets, done.sets if done else ()),
    )
    try:
        with written.files:
            _encode(written, job)
            _require_text(written.files.summaries, request.held_out_fraction)
            return _finish(written, job)
    except INTERRUPTIONS:
        raise  # nothing is wrong with what was done so far
    except BaseException:
        job.journal.sweep()
        raise


def _encode(written: _Written, job: _Job) -> None:
    """All documents into the sets: read by a thread ahead of the encoder, and written by one behind it."""
    corpus = written.corpus
    batches = Batches(corpus, job.request.held_out_fraction, skips_faults=job.request.on_error == "skip")
    with shown_progress(
        "tokenizing", corpus.num_bytes, bytes_before=corpus.num_read, tokens_before=written.files.num_tokens
    ) as advance:
        saved_at = time.monotonic()

        def write(encoded: tuple[Batch, list[Ids]]) -> None:
            nonlocal saved_at
            batch, ids = encoded
            written.files.add(batch.pieces, ids)
            for fault in batch.faults:
                written.omissions.add(fault)
            advance(num_bytes=batch.num_read, num_tokens=written.files.num_tokens)
            if batch.position is not None and time.monotonic() - saved_at >= job.request.journal_seconds:
                job.journal.write(written.progress(batch.position, written.files.save()))
                saved_at = time.monotonic()

        with Behind(write) as behind:
            for batch in ahead(iter(batches)):
                behind.give((batch, written.encoder.encode([piece.text for piece in batch.pieces])))


def _finish(written: _Written, job: _Job) -> Progress:
    """Put all files and what is to be said about them on disk; only their names are left to be given."""
    prefix = job.request.output_prefix
    files = [file.path for file in written.files.finish()]
    for suffix, content in (
        (".histogram.npy", histogram_file(written.files.counts)),
        (".json", _metadata(written, job)),
    ):
        files.append(Path(f"{prefix}{suffix}"))
        write_partial(files[-1], content)
    progress = written.progress(written.corpus.position, written.files.states, files)
    job.journal.write(progress)
    return progress


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


def _metadata(written: _Written, job: _Job) -> bytes:
    corpus, request, tokenizer, plan = written.corpus, job.request, job.tokenizer, job.plan
    position = corpus.position
    inputs: dict[str, Any] = {"files": len(corpus.files), "bytes": corpus.num_read, "sha256": corpus.sha256()}
    if not request.inputs:
        inputs["corpus"] = "the source of the Python standard library"
        inputs["python"] = platform.python_version()
    inputs["sources"] = [asdict(source) for source in position.sources]
    inputs["sources_not_listed"] = len(corpus.files) - len(position.sources)
    end_id = plan.edges.end_id
    encoder = {"name": written.encoder.name, "version": written.encoder.version}
    facts = {
        "sets": {
            name: _described(one) for name, one in zip(("training", "held_out"), written.files.summaries, strict=False)
        },
        "held_out_fraction": request.held_out_fraction,
        "format": request.format,
        "documents": request.document_mode,
        "rows": None if request.rows is None else {"kind": request.rows, "sequence_length": request.sequence_length},
        "tokenizer": {
            "sha256": _tokenizer_digest(request),
            "vocabulary_size": plan.vocabulary_size,
            "bos_token": request.bos_token,
            "eod_id": end_id,
            "eod_token": None if end_id is None else tokenizer.id_to_token(end_id),
            "parse_special_tokens": request.parse_special_tokens,
        },
        "encoder": encoder if written.reason is None else encoder | {"reason": written.reason},
        "tokens": histogram_facts(written.files.counts, lambda id_: tokenizer.decode([id_], skip_special_tokens=False)),
        "inputs": inputs,
        "left_out": {"documents": written.omissions.num_documents, "messages": written.omissions.messages},
    }
    # Names of files may hold bytes that are no text.
    return f"{json.dumps(facts, indent=2, ensure_ascii=False)}\n".encode("utf-8", "backslashreplace")


def _described(one: SetSummary) -> dict[str, Any]:
    facts = asdict(one) | {"prefix": Path(one.prefix).name, "bytes_per_token": one.bytes_per_token}
    facts["files"] = file_marks(Path(one.prefix), SUFFIX)
    if one.rows is None:
        for name in ("rows", "tokens_left_out", "documents_cut"):
            del facts[name]
    return facts
