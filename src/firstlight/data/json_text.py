"""The text in one line of JSON, or what is wrong with the line."""

import json
from collections.abc import Iterable
from typing import Any

from firstlight.data.faults import BadDocumentError


class _Repeated(dict[str, Any]):
    """An object in JSON in which a key is there more than once: `names` are all its keys."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.names = [name for name, _ in pairs]


def _record(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    return record if len(record) == len(pairs) else _Repeated(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_record)


def texts_of_line(line: str, key: str, place: str) -> list[str]:
    """The text or list of texts under `key`. Raises BadDocumentError, beginning with `place`, if there is none, or
    two: JSON's readers keep the last of equal keys, and the other text would be lost."""
    try:
        record = _DECODER.decode(line)
    except ValueError as error:
        raise BadDocumentError(f"{place}: not a line of JSON: {error}; each line must be one JSON object") from None
    except RecursionError:
        raise BadDocumentError(f"{place}: the JSON is nested too deeply to be read; make it flat") from None
    if not isinstance(record, dict) or key not in record:
        found = f"an object with {', '.join(map(repr, record))}" if isinstance(record, dict) else "no object"
        raise BadDocumentError(f'{place}: found {found}; each line needs the key "{key}"; name another with --json-key')
    if isinstance(record, _Repeated) and (count := record.names.count(key)) > 1:
        raise BadDocumentError(f'{place}: the key "{key}" is there {count} times; which of them is the text?')
    return checked_texts(record[key], key, place)


def checked_texts(value: Any, key: str, place: str) -> list[str]:
    """`value` as a list of texts that a tokenizer takes. Raises BadDocumentError."""
    texts = value if isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in texts):
        raise BadDocumentError(f'{place}: "{key}" holds neither a text nor a list of texts')
    _refuse_surrogates(texts, place)
    return texts


def _refuse_surrogates(texts: Iterable[str], place: str) -> None:
    """Half a surrogate pair, as in "\\ud800", is not text and no tokenizer takes it."""
    for text in texts:
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise BadDocumentError(
                    f"{place}: character {error.start} is half a surrogate pair; mend or drop it"
                ) from None
