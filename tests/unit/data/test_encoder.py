"""gigatoken is used where it gives the ids of `tokenizers`, and nowhere else."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from firstlight.base.errors import InputError
from firstlight.data.corpus import Corpus, standard_library
from firstlight.data.encoder import (
    EncodersDifferError,
    GigatokenEncoder,
    TokenizersEncoder,
    choose_encoder,
)
from firstlight.data.indexed import IndexedDataset
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.tokenizer import load_tokenizer, train_tokenizer

DEEPSEEK = Path(__file__).parents[4] / "shared" / "data" / "tokenizers" / "deepseek-v3"
TEXT = "the first light of a new day <|endoftext|>\n"


@pytest.fixture
def request_(tmp_path: Path) -> PrepareRequest:
    train_tokenizer([TEXT], 300).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "in.jsonl").write_text("\n".join(json.dumps({"text": f"{number} {TEXT}"}) for number in range(50)))
    return PrepareRequest(
        inputs=(tmp_path / "in.jsonl",),
        tokenizer=tmp_path / "tokenizer.json",
        output_prefix=tmp_path / "out" / "set",
        held_out_fraction=0.0,
    )


def content(request: PrepareRequest) -> tuple[bytes, bytes]:
    prefix = f"{request.output_prefix}_text_document"
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


def metadata(request: PrepareRequest) -> dict[str, str]:
    encoder: dict[str, str] = json.loads(Path(f"{request.output_prefix}.json").read_text())["encoder"]
    return encoder


class Wrong:
    """Encodes as `tokenizers` does until a text has `trigger` in it."""

    name = "wrong"
    version = "1"

    def __init__(self, exact: TokenizersEncoder, trigger: str) -> None:
        self.exact = exact
        self.trigger = trigger

    def encode_batch(self, texts: Sequence[str]) -> object:
        rows = [
            ids[:-1] if self.trigger in text else ids for text, ids in zip(texts, self.exact.encode(texts), strict=True)
        ]
        import awkward

        return awkward.Array([row.tolist() for row in rows])


def encode_often(encoder: GigatokenEncoder, texts: list[str], times: int) -> None:
    for _ in range(times):
        encoder.encode(texts)


@pytest.mark.parametrize("parse_special_tokens", [False, True])
def test_the_same_files_from_both(request_: PrepareRequest, parse_special_tokens: bool) -> None:
    pytest.importorskip("gigatoken")
    found = []
    for encoder in ("tokenizers", "gigatoken", "auto"):
        request = replace(request_, encoder=encoder, parse_special_tokens=parse_special_tokens)  # type: ignore[arg-type]
        summary = prepare(request)
        assert summary.encoder == metadata(request)["name"] == encoder.replace("auto", "gigatoken")
        found.append(content(request))
    assert found[0] == found[1] == found[2]
    ids = IndexedDataset.open(Path(f"{request_.output_prefix}_text_document")).tokens(0)[:-1]
    assert (0 in ids) == parse_special_tokens


@pytest.mark.interop
@pytest.mark.skipif(not DEEPSEEK.exists(), reason="DeepSeek's tokenizer is not beside this checkout")
def test_the_standard_library_in_deepseeks_ids() -> None:
    pytest.importorskip("gigatoken")
    tokenizer = load_tokenizer(DEEPSEEK)
    tokenizer.encode_special_tokens = True
    texts = [text for text, _ in zip(Corpus(standard_library()).texts(), range(60), strict=False)]
    choice = choose_encoder(tokenizer, "gigatoken")
    assert choice.fallback is not None
    pairs = zip(choice.encoder.encode(texts), choice.fallback.encode(texts), strict=True)
    assert all(np.array_equal(ours, theirs) for ours, theirs in pairs)


def test_without_gigatoken_tokenizers_encode(
    request_: PrepareRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    caplog.set_level("INFO", logger="firstlight")
    assert prepare(request_).encoder == "tokenizers"
    assert "encoding with tokenizers: gigatoken is not installed" in caplog.text
    assert "not installed" in metadata(request_)["reason"]
    with pytest.raises(InputError, match="not installed"):
        prepare(replace(request_, encoder="gigatoken"))


def test_a_tokenizer_that_gigatoken_does_not_know() -> None:
    pytest.importorskip("gigatoken")
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    choice = choose_encoder(tokenizer, "auto")
    assert choice.encoder.name == "tokenizers"
    assert choice.reason is not None
    assert "WordLevel" in choice.reason
    with pytest.raises(InputError, match="WordLevel"):
        choose_encoder(tokenizer, "gigatoken")


def test_a_difference_in_the_corpus_is_met_by_encoding_again(
    request_: PrepareRequest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("gigatoken")
    prepare(replace(request_, encoder="tokenizers"))
    expected = content(request_)
    tokenizer = load_tokenizer(request_.tokenizer)
    tokenizer.encode_special_tokens = True
    exact = TokenizersEncoder(tokenizer)
    monkeypatch.setattr("firstlight.data.encoder._gigatoken", lambda _: Wrong(exact, "7 the"))
    assert prepare(request_).encoder == "tokenizers"
    assert content(request_) == expected
    assert "encoding again from the start with tokenizers: gigatoken differs" in caplog.text
    assert "7 the first light" in metadata(request_)["reason"]
    with pytest.raises(InputError, match="--encoder tokenizers"):
        prepare(replace(request_, encoder="gigatoken"))


def test_late_texts_are_looked_at_too() -> None:
    pytest.importorskip("gigatoken")
    exact = TokenizersEncoder(train_tokenizer([TEXT], 300))
    encoder = GigatokenEncoder(Wrong(exact, "!"), exact)
    text = "a new day " * 1000
    encode_often(encoder, [text] * 5, 40)
    with pytest.raises(EncodersDifferError, match="differs"):
        encode_often(encoder, [text.replace("y", "!")] * 5, 300)
    num_seen = encoder._num_characters - 65536
    assert encoder._num_compared - 65536 < num_seen / 1024 + 20_000
