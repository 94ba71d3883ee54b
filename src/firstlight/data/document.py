"""Files into documents, in pieces of bounded size."""

import codecs
import itertools
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from firstlight.data import wikitext
from firstlight.data.arrow import arrow_rows
from firstlight.data.byte_source import inner_suffix, open_bytes
from firstlight.data.faults import BadDocumentError, BrokenBytesError, broken
from firstlight.data.json_text import texts_of_line
from firstlight.data.parquet import parquet_rows

DocumentMode = Literal["file", "line", "blank-line", "article", "paragraph"]
"""What one document is: of a text file the first three, of a WikiText file the last two."""
FileFormat = Literal["auto", "text", "jsonl", "wikitext", "parquet", "arrow"]
"""How a file is read; `auto` goes by its name."""
WHOLE_SIZE = 1 << 20
"""Up to so many characters a document is one piece of text."""
PIECE_SIZE = 1 << 17
"""Characters in each piece of a larger document: small, as a tokenizer needs hundreds of bytes for each."""

_FORMATS: dict[str, FileFormat] = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".arrow": "arrow"}
_RowReader = Callable[[Path, str, str, Callable[[bytes], object]], Iterator[list[str] | BadDocumentError]]
_ROW_READERS: dict[FileFormat, _RowReader] = {"parquet": parquet_rows, "arrow": arrow_rows}
_UTF8 = "utf-8-sig"
_Line = tuple[int, str, BadDocumentError | None]
"""Number from 1, text with its end, and what is wrong with it."""


@dataclass(frozen=True, kw_only=True)
class CorpusFile:
    """A file to read and the name that its documents are known by: it does not tell where the corpus lies."""

    path: Path
    name: str
    label: str = ""
    """What messages call it, if not by its path."""

    @property
    def place(self) -> str:
        """What messages call it."""
        return self.label or str(self.path)


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document under a stable name. Its sequences are of text in pieces, read while they are iterated over.

    Plain text is one sequence; a JSON list has several. Pieces of one sequence simply follow each other.
    Iterating raises BadDocumentError for what is not text; the documents after it can still be read.
    """

    name: str
    sequences: Iterable[Iterable[str]]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How files become documents. `on_bytes` sees all bytes of the files in the order in which they are read."""

    mode: DocumentMode = "file"
    format: FileFormat = "auto"
    json_key: str = "text"
    on_bytes: Callable[[bytes], object] = len

    def documents(self, file: CorpusFile) -> Iterator[Document]:
        """The documents of one file; each must be read before the next is asked for.

        Raises InputError when the file cannot be opened, BadDocumentError when it cannot be read any further.
        """
        format_ = _FORMATS.get(inner_suffix(file.name), "text") if self.format == "auto" else self.format
        if format_ == "jsonl":
            return self._json_documents(file)
        if format_ in _ROW_READERS:
            return self._row_documents(file, _ROW_READERS[format_])
        if format_ == "wikitext":
            return self._wikitext_paragraphs(file) if self.mode == "paragraph" else self._wikitext_articles(file)
        if self.mode == "line":
            return self._line_documents(file)
        if self.mode == "blank-line":
            return self._paragraphs(file)
        return iter([Document(name=file.name, sequences=[cut(self._parts(file))])])

    def _parts(self, file: CorpusFile) -> Iterator[str]:
        """The text of a whole file, as it is read."""
        decoder = codecs.getincrementaldecoder(_encoding(file.path))()
        with open_bytes(file.path, self.on_bytes) as handle:
            num_read = 0
            line = 1
            while True:
                try:
                    raw = handle.read(WHOLE_SIZE)
                    text = decoder.decode(raw, final=not raw)
                except UnicodeDecodeError as error:
                    place = num_read + len(raw) - len(error.object) + error.start  # it may hold bytes from before
                    line += error.object[: error.start].count(b"\n")
                    raise BadDocumentError(
                        f"{file.place}:{line}: byte {place} of the file is not {error.encoding} ({error.reason}); "
                        "convert the file to UTF-8"
                    ) from None
                except BrokenBytesError as error:
                    raise BadDocumentError(f"{file.place}:{line}: {error}; copy the file again") from None
                if not raw:
                    yield text
                    return
                yield text
                num_read += len(raw)
                line += raw.count(b"\n")

    def _lines(self, file: CorpusFile) -> Iterator[_Line]:
        """Each line of a file; BadDocumentError when compressed data breaks off, at the line where it does."""
        encoding = _encoding(file.path)
        number = 0
        with open_bytes(file.path, self.on_bytes) as handle:
            try:
                for number, raw in enumerate(handle, start=1):
                    if number == 2 and encoding == _UTF8:
                        encoding = "utf-8"  # a byte order mark may only open the file
                    try:
                        yield number, raw.decode(encoding), None
                    except UnicodeDecodeError as error:
                        fault = BadDocumentError(
                            f"{file.place}:{number}: byte {error.start} of the line is not {error.encoding} "
                            f"({error.reason}); convert the file to UTF-8"
                        )
                        yield number, raw.decode(encoding, errors="replace"), fault
            except BrokenBytesError as error:
                raise BadDocumentError(
                    f"{file.place}:{number + 1}: {error}; nothing after this place can be read: copy the file again"
                ) from None

    def _line_documents(self, file: CorpusFile) -> Iterator[Document]:
        for number, line, fault in self._lines(file):
            name = f"{file.name}:{number}"
            text = line.rstrip("\r\n")
            if fault is not None:
                yield Document(name=name, sequences=broken(fault))
            elif text and not text.isspace():
                yield Document(name=name, sequences=[cut([text])])

    def _paragraphs(self, file: CorpusFile) -> Iterator[Document]:
        for is_blank, lines in itertools.groupby(self._lines(file), key=lambda line: line[1].isspace()):
            if not is_blank:
                yield _document_of_lines(file, lines)

    def _wikitext_articles(self, file: CorpusFile) -> Iterator[Document]:
        for lines in wikitext.articles(self._lines(file)):
            yield _document_of_lines(file, lines)

    def _wikitext_paragraphs(self, file: CorpusFile) -> Iterator[Document]:
        try:
            text = "".join(self._parts(file)).replace("\r\n", "\n")
        except BadDocumentError as fault:
            yield Document(name=file.name, sequences=broken(fault))
            return
        for number, paragraph in enumerate(wikitext.paragraphs(wikitext.detokenize(text)), start=1):
            yield Document(name=f"{file.name}:{number}", sequences=[cut([paragraph])])

    def _json_documents(self, file: CorpusFile) -> Iterator[Document]:
        for number, line, fault in self._lines(file):
            if line.isspace() and fault is None:
                continue
            sequences = self._json_sequences(line, fault, f"{file.place}:{number}")
            yield Document(name=f"{file.name}:{number}", sequences=sequences)

    def _json_sequences(self, line: str, fault: BadDocumentError | None, place: str) -> Iterator[Iterable[str]]:
        """Parsed when they are asked for: documents that are passed over need not be."""
        if fault is not None:
            raise fault
        for text in texts_of_line(line, self.json_key, place):
            yield cut([text])

    def _row_documents(self, file: CorpusFile, read: _RowReader) -> Iterator[Document]:
        for number, row in enumerate(read(file.path, file.place, self.json_key, self.on_bytes), start=1):
            sequences = broken(row) if isinstance(row, BadDocumentError) else [cut([text]) for text in row]
            yield Document(name=f"{file.name}:{number}", sequences=sequences)


def _document_of_lines(file: CorpusFile, lines: Iterator[_Line]) -> Document:
    """A document named by its first line."""
    first = next(lines)
    return Document(name=f"{file.name}:{first[0]}", sequences=[cut(_sound(itertools.chain([first], lines)))])


def _sound(lines: Iterable[_Line]) -> Iterator[str]:
    """The text of lines, up to one with a fault."""
    for _, text, fault in lines:
        if fault is not None:
            raise fault
        yield text


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


def _encoding(path: Path) -> str:
    """UTF-8 with or without a byte order mark; for Python files what PEP 263 says."""
    if path.suffix != ".py":
        return _UTF8
    with open_bytes(path) as handle:
        try:
            encoding, _ = tokenize.detect_encoding(handle.readline)
            b"#".decode(encoding)  # refuses codecs that are not of text
        except (SyntaxError, LookupError) as error:
            raise BadDocumentError(f"{path}:1: {error}; convert the file to UTF-8") from None
    return _UTF8 if encoding == "utf-8" else encoding
