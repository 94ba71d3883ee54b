"""Which files a corpus is made of, and which of its documents are held out."""

import contextlib
import glob
import hashlib
import itertools
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from firstlight.base.errors import InputError
from firstlight.data.byte_source import COMPRESSED_SUFFIXES, inner_suffix
from firstlight.data.document import CorpusFile, Document, Reader
from firstlight.data.faults import BadDocumentError
from firstlight.data.saved_folder import is_saved_folder, saved_files

# fmt: off
TEXT_SUFFIXES = (
    ".txt", ".text", ".tokens", ".md", ".rst", ".tex", ".html", ".xml", ".css", ".csv", ".tsv", ".jsonl", ".parquet",
    ".yaml", ".yml", ".toml", ".cfg", ".ini",
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".js", ".ts", ".tsx",
    ".jsx", ".rb", ".php", ".pl", ".lua", ".sh", ".sql", ".scala", ".swift", ".jl", ".r",
)
# fmt: on
"""Files in folders that are read, compressed or not; a file that is named itself is read whatever it is called."""

STANDARD_INPUT = Path("-")
_KEPT = ".standard-input."

MOST_SOURCES = 10_000
"""Files that are noted one by one; the digest holds all."""

# fmt: off
_LEFT_OUT = (
    "test", "idlelib", "lib2to3", "tkinter", "turtledemo", "encodings", "ensurepip", "site-packages",
    "dist-packages", "__pycache__",
)
# fmt: on
"""Folders of the standard library: tests, old syntax, tables and what is not a part of it."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file that was read: its path, and size and SHA-256 of what was read of it."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CorpusPosition:
    """A place between two documents, and what was noted of the files that end before it."""

    file: int = 0
    """Files that end before it."""
    documents: int = 0
    """Documents of the file in which it is that come before it, those that cannot be read included."""
    num_bytes: int = 0
    """Bytes of the files that end before it."""
    digest: str = "00" * 32
    """Their digest, as Corpus.sha256 has it."""
    sources: Sequence[Source] = ()
    """Those files, or the first of them."""


class Corpus:
    """The documents of some files, in order, from a place on. `position`, `num_read`, `sources` and the digest follow
    the reading: between two documents, `position` is after the last one that was given."""

    def __init__(
        self, files: Sequence[CorpusFile], reader: Reader | None = None, position: CorpusPosition | None = None
    ) -> None:
        self.files = tuple(files)
        self.num_bytes = sum(file.path.stat().st_size for file in self.files)
        self._reader = replace(reader or Reader(), on_bytes=self._count)
        self._start = position or CorpusPosition()
        self._file = self._start.file
        self._num_documents = self._start.documents
        self._num_finished = self._start.num_bytes
        self._num_bytes = 0
        self._file_digest = hashlib.sha256()
        self._digest = bytes.fromhex(self._start.digest)
        self._sources = list(self._start.sources)

    @property
    def num_read(self) -> int:
        """Bytes read so far."""
        return self._num_finished + self._num_bytes

    @property
    def position(self) -> CorpusPosition:
        """Where the reading is."""
        return CorpusPosition(
            file=self._file,
            documents=self._num_documents,
            num_bytes=self._num_finished,
            digest=self.sha256(),
            sources=tuple(self._sources),
        )

    def documents(self, on_fault: Callable[[BadDocumentError], None] | None = None) -> Iterator[Document]:
        """All documents, once; each must be read before the next is asked for.

        With `on_fault`, a file that cannot be read any further is reported to it and the next one is begun.
        Raises InputError as `Reader`.
        """
        num_passed_over = self._start.documents
        for file in self.files[self._file :]:
            try:
                documents = self._reader.documents(file)
                for document in itertools.islice(documents, num_passed_over):
                    if document.name == file.name:  # the whole file, which is read with the document
                        _pass_over(document)
                self._num_documents = num_passed_over
                for document in documents:
                    self._num_documents += 1
                    yield document
            except BadDocumentError as fault:
                if on_fault is None:
                    raise
                on_fault(fault)
            self._end_file(file)
            num_passed_over = 0

    def texts(self) -> Iterator[str]:
        """The text of all documents, in pieces of at most 1 MiB: what a tokenizer is trained on."""
        for document in self.documents():
            for sequence in document.sequences:
                yield from sequence

    def sha256(self) -> str:
        """Hex digest of the files read to their end: D(0) is 32 zeros, D(n) is SHA-256 of D(n - 1) and of the SHA-256
        of file n. It can be continued from a position, and files can be hashed one by one."""
        return self._digest.hex()

    def _end_file(self, file: CorpusFile) -> None:
        digest = self._file_digest.digest()
        if len(self._sources) < MOST_SOURCES:
            self._sources.append(Source(path=file.place, bytes=self._num_bytes, sha256=digest.hex()))
        self._digest = hashlib.sha256(self._digest + digest).digest()
        self._file += 1
        self._num_documents = 0
        self._num_finished += self._num_bytes
        self._num_bytes = 0
        self._file_digest = hashlib.sha256()

    def _count(self, raw: bytes) -> None:
        self._num_bytes += len(raw)
        self._file_digest.update(raw)


def _pass_over(document: Document) -> None:
    """Read a document, good or bad, for the place of the next one."""
    with contextlib.suppress(BadDocumentError):
        for sequence in document.sequences:
            for _ in sequence:
                pass


def corpus_files(inputs: Sequence[Path], standard_input: Path | None = None) -> list[CorpusFile]:
    """The files of `inputs`: named ones as they are, folders with all text files in them, by path, hidden ones not,
    folders that `datasets` saved with the files that they name, patterns with what they match, by path. `-` is
    `standard_input`, a file with what came from there.

    Raises InputError when one does not exist, a folder has no text file or a pattern matches nothing.
    """
    files: list[CorpusFile] = []
    for path in inputs:
        if path == STANDARD_INPUT:
            files.append(_standard_input_file(standard_input))
        elif path.is_dir():
            files.extend(_files_in(path))
        elif path.exists():
            files.append(CorpusFile(path=path, name=path.name))
        elif glob.has_magic(str(path)):
            files.extend(_matching_files(path))
        else:
            raise InputError(
                f"{path} does not exist; --input needs a text file, a .jsonl file, a folder of them, a pattern or -"
            )
    return files


@contextmanager
def kept_standard_input(prefix: Path) -> Iterator[Path]:
    """A file `<prefix>.standard-input.*` with all of standard input, while the context lasts: it may be read twice."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    beginning = f"{prefix.name}{_KEPT}"
    with tempfile.NamedTemporaryFile(prefix=beginning, suffix=".partial", dir=prefix.parent) as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        file.flush()
        yield Path(file.name)


def sweep_standard_input(prefix: Path) -> None:
    """Remove what processes that were killed kept of their standard input at `prefix`."""
    for path in prefix.parent.glob(f"{glob.escape(prefix.name)}{_KEPT}*.partial"):
        path.unlink(missing_ok=True)


def standard_library(folder: Path | None = None) -> list[CorpusFile]:
    """The Python standard library's own source, by path: text that is at hand without a download.

    `folder` stands in for the interpreter's. Raises InputError when there are no source files.
    """
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    files = [CorpusFile(path=root / name, name=name) for name in _names(root, _LEFT_OUT) if name.endswith(".py")]
    if not files:
        raise InputError(
            f"{root} holds no source of Python's standard library, which is the text used when none is named; "
            "name your own with --input"
        )
    return files


def is_held_out(name: str, fraction: float) -> bool:
    """Whether the document of this name belongs to the held-out `fraction`: by its SHA-256, so always the same."""
    number = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big")
    return number < fraction * 2**64


def _standard_input_file(path: Path | None) -> CorpusFile:
    if path is None:
        raise InputError("- is standard input, which only `firstlight prepare` reads; name a file")
    return CorpusFile(path=path, name=str(STANDARD_INPUT), label="standard input")


def _matching_files(pattern: Path) -> list[CorpusFile]:
    """Files that match, and text files in folders that do; named from the first part of the pattern on that varies."""
    parts = pattern.parts
    num_fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:num_fixed])
    found: set[Path] = set()
    for match in map(Path, glob.glob(str(pattern), recursive=True)):
        found.update([match] if match.is_file() else (match / name for name in _names(match) if _is_text(name)))
    if not found:
        raise InputError(f"no file matches {pattern}; quote the pattern, or see what is there")
    return [CorpusFile(path=path, name=path.relative_to(root).as_posix()) for path in sorted(found)]


def _is_text(name: str) -> bool:
    return inner_suffix(name) in TEXT_SUFFIXES


def _files_in(folder: Path) -> list[CorpusFile]:
    if is_saved_folder(folder):
        return [CorpusFile(path=file, name=file.name) for file in saved_files(folder)]
    names = [name for name in _names(folder) if _is_text(name)]
    if not names:
        raise InputError(
            f"the folder {folder} has no text files; these are read: {' '.join(TEXT_SUFFIXES)}, also with "
            f"{' '.join(COMPRESSED_SUFFIXES)} after them; name other files one by one"
        )
    return [CorpusFile(path=folder / name, name=name) for name in names]


def _names(root: Path, left_out: Sequence[str] = ()) -> list[str]:
    """Paths of all regular files under `root`, relative to it, with /, sorted; hidden ones left out."""
    names: list[str] = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and name not in left_out]
        paths = [Path(folder, name) for name in files if not name.startswith(".")]
        names.extend(path.relative_to(root).as_posix() for path in paths if path.is_file())
    return sorted(names)
