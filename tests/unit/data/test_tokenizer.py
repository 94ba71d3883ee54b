"""Loading, questions and training."""

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

from firstlight.base.errors import InputError
from firstlight.data.tokenizer import (
    check_vocabulary,
    end_of_document_id,
    load_tokenizer,
    train_tokenizer,
    vocabulary_size,
)

TEXT = ["def light(first):\n    return first + 12345\n\n\nclass Dawn:\n    pass\n", "naïve 日の出 🌅\r\n\t."] * 3


def with_tokens(*names: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.add_tokens(["a", "b"])
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in names])
    return tokenizer


def test_training_twice_gives_the_same_file() -> None:
    first, second = (train_tokenizer(iter(TEXT), 300) for _ in range(2))
    assert first.to_str() == second.to_str()
    assert vocabulary_size(first) == 300


def test_a_trained_tokenizer_gives_any_text_back() -> None:
    tokenizer = train_tokenizer(TEXT, 300)
    assert [tokenizer.token_to_id(name) for name in ("<|endoftext|>", "<|pad|>")] == [0, 1]
    for text in [*TEXT, "unseen Ω \x00 ١٢٣ \u200d", "    \n\n  x"]:
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_numbers_and_line_ends_are_words_by_themselves() -> None:
    tokenizer = train_tokenizer(TEXT, 300)
    assert tokenizer.pre_tokenizer is not None
    words = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("x = 12345\n    y")]
    assert words == ["x", "Ġ=", "Ġ", "123", "45", "Ċ", "ĠĠĠ", "Ġy"]


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(InputError, match="at least 258 tokens, not 257"):
        train_tokenizer(TEXT, 257)


def test_a_tokenizer_loads_from_its_file_and_its_folder_and_never_truncates(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(TEXT, 300)
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        assert load_tokenizer(path).encode("a b c d").ids == train_tokenizer(TEXT, 300).encode("a b c d").ids


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "tokenizer.json"):
        with pytest.raises(InputError, match="there is no tokenizer in"):
            load_tokenizer(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff\xfe", b"[1]", b'{"model": 1}'])
def test_what_is_no_tokenizer_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match=r"tokenizer\.json is not a tokenizer"):
        load_tokenizer(tmp_path)


def test_the_end_of_a_document_is_found(tmp_path: Path) -> None:
    tokenizer = with_tokens("</s>", "<|end_of_text|>", "<stop>")
    assert end_of_document_id(tokenizer, tmp_path) == tokenizer.token_to_id("<|end_of_text|>")
    for eos_token in ("<stop>", {"content": "<stop>"}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos_token}))
        assert end_of_document_id(tokenizer, tmp_path / "tokenizer.json") == tokenizer.token_to_id("<stop>")
    assert end_of_document_id(tokenizer, tmp_path, "a") == 0


def test_an_unknown_end_of_documents_asks_for_the_flag(tmp_path: Path) -> None:
    for tokenizer, name in ((with_tokens(), None), (with_tokens("</s>"), "<stop>")):
        with pytest.raises(InputError, match="--eod-token"):
            end_of_document_id(tokenizer, tmp_path, name)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": null}')
    with pytest.raises(InputError, match="--eod-token"):
        end_of_document_id(with_tokens(), tmp_path)


def test_a_damaged_tokenizer_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json is not JSON"):
        end_of_document_id(with_tokens("</s>"), tmp_path)


def test_a_vocabulary_must_hold_every_id(tmp_path: Path) -> None:
    tokenizer = with_tokens("</s>", "<s>")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    check_vocabulary(tmp_path, 4)
    with pytest.raises(InputError, match=r"model\.vocab_size = 3 is smaller than the 4 ids"):
        check_vocabulary(tmp_path, 3)
