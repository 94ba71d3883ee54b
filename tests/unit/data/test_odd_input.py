"""A table of odd input: the right documents, or one message with its place for each that cannot be read."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.data.indexed import IndexedDataset
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.tokenizer import load_tokenizer, train_tokenizer

LONG = "a line of text " * 700_000
ODD = {
    "empty file": ("a.jsonl", b"", ["x"], []),
    "empty documents": (
        "a.jsonl",
        b'{"text": ""}\n\n \t\n{"text": []}\n{"text": ["", ""]}\n{"text": "a"}',
        ["a", "x"],
        [],
    ),
    "empty text": ("a.txt", b"", ["x"], []),
    "line of 10 MB": ("a.jsonl", json.dumps({"text": LONG}).encode(), [LONG, "x"], []),
    "text of 10 MB in one line": ("a.txt", LONG.encode(), [LONG, "x"], []),
    "line of 10 MB that is no JSON": (
        "a.jsonl",
        b'{"text": "' + LONG.encode() + b'\n{"text": "a"}',
        ["a", "x"],
        ["a.jsonl:1: not a"],
    ),
    "byte order mark": ("a.jsonl", b'\xef\xbb\xbf{"text": "a"}\n', ["a", "x"], []),
    "byte order mark inside": (
        "a.jsonl",
        b'{"text": "a"}\n\xef\xbb\xbf{"text": "b"}\n',
        ["a", "x"],
        ["a.jsonl:2: not a"],
    ),
    "byte order mark in text": ("a.txt", b"\xef\xbb\xbfa", ["a", "x"], []),
    "UTF-16": ("a.txt", "a\n".encode("utf-16"), ["x"], ["a.txt:1: byte 0 "]),
    "CRLF": ("a.jsonl", b'{"text": "a\\r\\n"}\r\n\r\n{"text": "b"}\r\n', ["a\r\n", "b", "x"], []),
    "CRLF in text": ("a.txt", b"a\r\nb\r\n", ["a\r\nb\r\n", "x"], []),
    "NUL": ("a.jsonl", b'{"text": "a\\u0000b"}\n{"text": "\0"}\n', ["a\0b", "x"], ["a.jsonl:2: not a"]),
    "NUL in text": ("a.txt", b"a\0b", ["a\0b", "x"], []),
    "NULs after a crash": ("a.jsonl", b'{"text": "a"}\n' + bytes(4096), ["a", "x"], ["a.jsonl:2: not a"]),
    "invalid UTF-8": ("a.jsonl", b'{"text": "\xc3("}\n{"text": "b"}', ["b", "x"], ["a.jsonl:1: byte 10 of the line"]),
    "half a pair": (
        "a.jsonl",
        b'{"text": "\\udc00"}\n{"text": "\\ud83d\\ude00"}',
        ["\U0001f600", "x"],
        ["a.jsonl:1: character 0"],
    ),
    "half a pair, encoded": ("a.jsonl", b'{"text": "\xed\xa0\x80"}', ["x"], ["a.jsonl:1: byte 10 of the line"]),
    "half a pair in a key": (
        "a.jsonl",
        b'{"\\ud800": 1, "text": "a"}\n{"\\ud800": 1}',
        ["a", "x"],
        ["a.jsonl:2: found"],
    ),
    "deep": (
        "a.jsonl",
        b'{"text": "a", "more": ' + b"[" * 99_999 + b"]" * 99_999 + b"}",
        ["x"],
        ["a.jsonl:1: the JSON is nested"],
    ),
    "deep text": ("a.jsonl", b'{"text": [[["a"]]]}', ["x"], ['a.jsonl:1: "text" holds neither']),
    "gzip by content": ("a.jsonl", gzip.compress(b'{"text": "a"}\n{'), ["a", "x"], ["a.jsonl:2: not a"]),
    "gzip of nothing": ("a.jsonl", gzip.compress(b""), ["x"], []),
    "gzip cut off": (
        "a.jsonl",
        gzip.compress(b'{"text": "a"}\n')[:-4],
        ["a", "x"],
        ["a.jsonl:2: the compressed data ends"],
    ),
    "equal keys": ("a.jsonl", b'{"text": "a", "text": "a"}', ["x"], ["a.jsonl:1: the key"]),
    "equal other keys": ("a.jsonl", b'{"a": 1, "a": 2, "text": "a"}', ["a", "x"], []),
    "no key": (
        "a.jsonl",
        b'{"body": "a"}\n[]\n"text"\nnull\n',
        ["x"],
        [f"a.jsonl:{line}: found" for line in (1, 2, 3, 4)],
    ),
    "other values": (
        "a.jsonl",
        b'{"text": null}\n{"text": 1}\n{"text": ["a", 1]}',
        ["x"],
        [f'a.jsonl:{line}: "text"' for line in (1, 2, 3)],
    ),
    "a very long number": ("a.jsonl", b'{"n": ' + b"1" * 9999 + b', "text": "a"}', ["x"], ["a.jsonl:1: not a"]),
    "infinity": ("a.jsonl", b'{"n": NaN, "m": 1e999, "text": "a"}', ["a", "x"], []),
    "two objects": ("a.jsonl", b'{"text": "a"} {"text": "b"}', ["x"], ["a.jsonl:1: not a"]),
}
"""What is odd: a file's name and content, the documents of it and of `x` after it, how the messages begin."""


@pytest.mark.parametrize("what", ODD)
def test_odd_input(tmp_path: Path, what: str) -> None:
    name, content, expected, begins = ODD[what]
    train_tokenizer(["document"], 258).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / name).write_bytes(content)
    (tmp_path / "x.txt").write_text("x")
    request = PrepareRequest(
        inputs=(tmp_path / name, tmp_path / "x.txt"),
        tokenizer=tmp_path / "tokenizer.json",
        output_prefix=tmp_path / "out" / "set",
        held_out_fraction=0.0,
        on_error="skip",
    )
    summary = prepare(request)
    indexed = IndexedDataset.open(Path(summary.training.prefix))
    tokenizer = load_tokenizer(request.tokenizer)
    found = [tokenizer.decode(indexed.tokens(k).tolist()) for k in range(len(indexed))]
    assert found == expected
    left_out = json.loads(summary.metadata.read_text())["left_out"]
    assert left_out["documents"] == summary.num_left_out == len(begins)
    for message, begin in zip(left_out["messages"], begins, strict=True):
        assert message.startswith(f"{tmp_path}/{begin}")
        assert len(message) < 1000
    if begins:
        with pytest.raises(InputError) as stopped:
            prepare(replace(request, on_error="stop"))
        assert str(stopped.value) == left_out["messages"][0]
