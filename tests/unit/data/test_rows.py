"""Documents in rows of one length."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firstlight.base.errors import InputError
from firstlight.data.indexed import IndexedDataset
from firstlight.data.indexed_writer import IndexedWriter
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.rows import RowWriter
from firstlight.data.tokenizer import train_tokenizer

DOCUMENTS = [[1, 2], [], [3, 4, 5, 6, 7, 8, 9], [10]]


def rows(tmp_path: Path, kind: str) -> tuple[list[list[int]], RowWriter]:
    with IndexedWriter(tmp_path / "a", np.dtype(np.int32)) as writer:
        builder = RowWriter(writer, kind, 4, pad_id=0)  # type: ignore[arg-type]
        for document in DOCUMENTS:
            builder.add(np.array([99], np.int32))
            builder.drop_document()
            builder.add(np.array(document, np.int32))
            builder.end_document()
    indexed = IndexedDataset.open(tmp_path / "a")
    assert indexed.document_indices.tolist() == list(range(len(indexed) + 1))
    return [indexed.tokens(k).tolist() for k in range(len(indexed))], builder


def test_stitched(tmp_path: Path) -> None:
    found, builder = rows(tmp_path, "stitch")
    assert found == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert (builder.num_tokens, builder.num_tokens_left_out, builder.num_documents_cut) == (8, 2, 0)


def test_padded(tmp_path: Path) -> None:
    found, builder = rows(tmp_path, "pad")
    assert found == [[1, 2, 0, 0], [3, 4, 5, 6], [10, 0, 0, 0]]
    assert (builder.num_tokens, builder.num_tokens_left_out, builder.num_documents_cut) == (12, 3, 1)


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    train_tokenizer(["a"], 258).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("some text")
    request = PrepareRequest(
        inputs=(tmp_path / "a.txt",),
        tokenizer=tmp_path / "tokenizer.json",
        output_prefix=tmp_path / "set",
        held_out_fraction=0.0,
    )
    for changes, message in (
        ({"rows": "stitch"}, "--sequence-length"),
        ({"sequence_length": 8}, "--rows"),
        ({"rows": "stitch", "sequence_length": 0}, "at least 1"),
        ({"rows": "pad", "sequence_length": 8}, "--pad-token"),
        ({"rows": "pad", "sequence_length": 8, "pad_token": "?!"}, 'no token "\\?!".*--pad-token'),
        ({"rows": "stitch", "sequence_length": 800}, "do not fill one row"),
        ({"documents": "article"}, "--documents article does not go with --format auto"),
        ({"documents": "line", "format": "wikitext"}, "use article or paragraph"),
        ({"bos_token": "?!"}, "--bos-token"),
    ):
        with pytest.raises(InputError, match=message):
            prepare(replace(request, **changes))  # type: ignore[arg-type]
    assert not list(tmp_path.glob("set*"))
