"""Text files into documents, in pieces of bounded size."""

import codecs
import itertools
import json
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from firstlight.base.errors import InputError

DocumentMode = Literal["file", "line", "blank-line"]
WHOLE_SIZE = 1 << 20
"""Up to so many characters a document is one piece of text."""
PIECE_SIZE = 1 << 17
"""Characters in each piece of a larger document: small, as a tokenizer needs hundreds of bytes for each."""

JSON_LINES = (".jsonl", ".json")
_UTF8 = "utf-8-sig"


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """A file to read and the name that its documents are known by: it does not tell where the corpus lies."""

    path: Path
    name: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document under a stable name. Its sequences are of text in pieces, read while they are iterated over.

    Plain text is one sequence; a JSON list has several. Pieces of one sequence simply follow each other.
    """

    name: str
    sequences: Iterable[Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How files become documents. `on_bytes` sees all bytes in the order in which they are read."""

    mode: DocumentMode = "file"
    json_key: str = "text"
    on_bytes: Callable[[bytes], object] = len

    def documents(self, file: CorpusFile) -> Iterator[Document]:
        """The documents of one file; each must be read before the next is asked for.

        Raises InputError, naming file and place, for what is not text in the file's encoding or not as JSON should be.
        """
        if file.path.suffix in JSON_LINES:
            return self._json_documents(file)
        if self.mode == "line":
            return self._line_documents(file)
        if self.mode == "blank-line":
            return self._paragraphs(file)
        return iter([Document(name=file.name, sequences=[cut(self._parts(file))])])

    def _parts(self, file: CorpusFile) -> Iterator[str]:
        """The text of a whole file, as it is read."""
        decoder = codecs.getincrementaldecoder(_encoding(file.path))()
        with _open(file.path) as handle:
            num_read = 0
            while raw := handle.read(WHOLE_SIZE):
                num_read += len(raw)
                self.on_bytes(raw)
                yield _decode(decoder, raw, file.path, num_read)
            yield _decode(decoder, b"", file.path, num_read)

    def _lines(self, file: CorpusFile) -> Iterator[tuple[int, str]]:
        """(number from 1, text with its end) of each line."""
        encoding = _encoding(file.path)
        with _open(file.path) as handle:
            for number, raw in enumerate(handle, start=1):
                self.on_bytes(raw)
                if number == 2 and encoding == _UTF8:
                    encoding = "utf-8"  # a byte order mark may only open the file
                try:
                    yield number, raw.decode(encoding)
                except UnicodeDecodeError as error:
                    raise InputError(
                        f"{file.path}:{number}: byte {error.start} of the line is not {error.encoding}; "
                        "convert the file to UTF-8"
                    ) from None

    def _line_documents(self, file: CorpusFile) -> Iterator[Document]:
        for number, line in self._lines(file):
            text = line.rstrip("\r\n")
            if text and not text.isspace():
                yield Document(name=f"{file.name}:{number}", sequences=[cut([text])])

    def _paragraphs(self, file: CorpusFile) -> Iterator[Document]:
        for is_blank, lines in itertools.groupby(self._lines(file), key=lambda line: line[1].isspace()):
            if not is_blank:
                number, first = next(lines)
                pieces = cut(itertools.chain([first], (text for _, text in lines)))
                yield Document(name=f"{file.name}:{number}", sequences=[pieces])

    def _json_documents(self, file: CorpusFile) -> Iterator[Document]:
        for number, line in self._lines(file):
            if not line.isspace():
                texts = _texts(line, self.json_key, f"{file.path}:{number}")
                yield Document(name=f"{file.name}:{number}", sequences=[cut([text]) for text in texts])


def cut(parts: Iterable[str]) -> Iterator[str]:
    """A text that comes in parts, put together: whole up to WHOLE_SIZE, else in pieces of about PIECE_SIZE."""
    rest = ""
    limit = WHOLE_SIZE
    for part in parts:
        rest += part
        start = 0
        while len(rest) - start > limit:
            limit = PIECE_SIZE
            end = start + cut_position(rest[start : start + PIECE_SIZE])
            yield rest[start:end]
            start = end
        rest = rest[start:] if start else rest
    yield rest


def cut_position(text: str) -> int:
    """Where to cut: after the last line end before a line that is not indented, as no tokenizer joins these.

    Without such a place: after the last line end, before the last space, or at the end.
    """
    end = len(text)
    while (line_end := text.rfind("\n", 0, end)) > 0:
        if text[line_end + 1 : line_end + 2].strip():
            return line_end + 1
        end = line_end
    return text.rfind("\n") + 1 or max(0, text.rfind(" ")) or len(text)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _encoding(path: Path) -> str:
    """UTF-8 with or without a byte order mark; for Python files what PEP 263 says."""
    if path.suffix != ".py":
        return _UTF8
    with _open(path) as handle:
        try:
            encoding, _ = tokenize.detect_encoding(handle.readline)
            b"#".decode(encoding)  # refuses codecs that are not of text
        except (SyntaxError, LookupError) as error:
            raise InputError(f"{path}: {error}; convert the file to UTF-8") from None
    return _UTF8 if encoding == "utf-8" else encoding


def _decode(decoder: codecs.IncrementalDecoder, raw: bytes, path: Path, num_read: int) -> str:
    """Text of the next bytes; `num_read` counts the file's bytes up to their end. No bytes: the file ends here."""
    try:
        return decoder.decode(raw, final=not raw)
    except UnicodeDecodeError as error:
        place = num_read - len(error.object) + error.start  # the decoder may hold bytes from before
        raise InputError(
            f"{path}: byte {place} is not {error.encoding} ({error.reason}); convert the file to UTF-8"
        ) from None


def _texts(line: str, key: str, place: str) -> list[str]:
    """The text or list of texts under `key` of one line of JSON."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not a line of JSON: {error}; each line must be one JSON object") from None
    if not isinstance(record, dict) or key not in record:
        found = f"an object with {', '.join(map(repr, record))}" if isinstance(record, dict) else "no object"
        raise InputError(f'{place}: found {found}; each line needs the key "{key}"; name another with --json-key')
    value: Any = record[key]
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f'{place}: "{key}" holds neither a text nor a list of texts')
    if "\\u" in line:
        _refuse_surrogates(texts, place)
    return texts


def _refuse_surrogates(texts: Iterable[str], place: str) -> None:
    """Half a surrogate pair, as in "\\ud800", is not text and no tokenizer takes it."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{place}: character {error.start} is half a surrogate pair; mend or drop it") from None
