"""Which files a corpus is made of, and which of its documents are held out."""

import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from firstlight.base.errors import InputError
from firstlight.data.document import CorpusFile, Document, Reader

# fmt: off
TEXT_SUFFIXES = (
    ".txt", ".text", ".tokens", ".md", ".rst", ".tex", ".html", ".xml", ".css", ".csv", ".tsv", ".jsonl", ".yaml",
    ".yml", ".toml", ".cfg", ".ini",
    ".py", ".pyi", ".c", ".h", ".cc", ".cpp", ".hpp", ".cu", ".rs", ".go", ".java", ".kt", ".js", ".ts", ".tsx",
    ".jsx", ".rb", ".php", ".pl", ".lua", ".sh", ".sql", ".scala", ".swift", ".jl", ".r",
)
# fmt: on
"""Files in folders that are read; a file that is named itself is read whatever it is called."""

# fmt: off
_LEFT_OUT = (
    "test", "idlelib", "lib2to3", "tkinter", "turtledemo", "encodings", "ensurepip", "site-packages",
    "dist-packages", "__pycache__",
)
# fmt: on
"""Folders of the standard library: tests, old syntax, tables and what is not a part of it."""


class Corpus:
    """The documents of some files, in order. `num_read` and the digest follow the reading."""

    def __init__(self, files: Sequence[CorpusFile], reader: Reader | None = None) -> None:
        self.files = tuple(files)
        self.num_bytes = sum(file.path.stat().st_size for file in self.files)
        self.num_read = 0
        self._digest = hashlib.sha256()
        self._reader = replace(reader or Reader(), on_bytes=self._count)

    def documents(self) -> Iterator[Document]:
        """All documents, once; each must be read before the next is asked for. Raises InputError as `Reader`."""
        for file in self.files:
            yield from self._reader.documents(file)

    def texts(self) -> Iterator[str]:
        """The text of all documents, in pieces of at most 1 MiB: what a tokenizer is trained on."""
        for document in self.documents():
            for sequence in document.sequences:
                yield from sequence

    def sha256(self) -> str:
        """Hex digest of the bytes read so far, all files one after the other."""
        return self._digest.hexdigest()

    def _count(self, raw: bytes) -> None:
        self.num_read += len(raw)
        self._digest.update(raw)


def corpus_files(inputs: Sequence[Path]) -> list[CorpusFile]:
    """The files of `inputs`: named ones as they are, folders with all text files in them, by path, hidden ones not.

    Raises InputError when one does not exist or a folder has no text file.
    """
    files: list[CorpusFile] = []
    for path in inputs:
        if path.is_dir():
            files.extend(_files_in(path))
        elif path.exists():
            files.append(CorpusFile(path=path, name=path.name))
        else:
            raise InputError(f"{path} does not exist; --input needs a text file, a .jsonl file or a folder of them")
    return files


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


def _files_in(folder: Path) -> list[CorpusFile]:
    names = [name for name in _names(folder) if Path(name).suffix.lower() in TEXT_SUFFIXES]
    if not names:
        raise InputError(
            f"the folder {folder} has no text files; these are read: {' '.join(TEXT_SUFFIXES)}; "
            "name other files one by one"
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
