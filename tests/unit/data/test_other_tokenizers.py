"""tiktoken's and SentencePiece's files: the ids of those libraries, or a refusal that says why."""

import base64
import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from firstlight.base.errors import InputError
from firstlight.data.corpus import standard_library
from firstlight.data.indexed import IndexedDataset
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.tiktoken_file import PATTERNS
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer, train_tokenizer

tiktoken = pytest.importorskip("tiktoken", reason="the package tiktoken is not installed")
sentencepiece = pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")

MORE = ["naïve café 東京都 日本語のテキスト, Привет мир! 안녕하세요 \u0661\u0662 ½ ﬁ Å 🙂👍🏽 don't DON'T it's"] * 40


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Some source code and other writing: 300 KB."""
    files = standard_library()[:40]
    return [file.path.read_text(encoding="utf-8", errors="ignore")[:8000] for file in files] + MORE


def odd(texts: list[str]) -> list[str]:
    """Parts of texts, and characters of everywhere, by chance."""
    chance = random.Random(0)
    alphabet = "ab AB  \n\t\r'.,-_()<>|09\u00e9\u0301\u2581\u3000\u65e5\u0661\u200d\U0001f642\0\u0085\u2028\u00bd\ufb01"
    made = ["".join(chance.choices(alphabet, k=chance.randrange(40))) for _ in range(400)]
    characters = (chr(code) for code in range(1, 0x30000, 7) if not 0xD800 <= code < 0xE000)
    cut = [text[place : place + 300] for text in texts[:40] for place in (0, chance.randrange(8000))]
    return [*made, *cut, " ".join(characters), *MORE[:1]]


@pytest.fixture(scope="module")
def ranks(texts: list[str]) -> dict[bytes, int]:
    """Of a trained byte-level BPE: the bytes, then what was merged."""
    tokenizer = train_tokenizer(texts, 1200)
    letters = sorted(b for b in range(256))
    seen = {chr(b): b for b in letters if 33 <= b < 127 or 161 <= b < 173 or b >= 174}
    seen |= {chr(256 + k): b for k, b in enumerate(b for b in letters if b not in seen.values())}
    names = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])[2:]
    return {bytes(seen[letter] for letter in name): rank for rank, (name, _) in enumerate(names)}


def write_ranks(folder: Path, ranks: dict[bytes, int], beside: object | None) -> Path:
    path = folder / "my.tiktoken"
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    if beside is not None:
        (folder / "my.tiktoken.json").write_text(json.dumps(beside))
    return path


@pytest.mark.parametrize("pattern", [*PATTERNS, r"\s+|\S+"])
def test_tiktoken(tmp_path: Path, ranks: dict[bytes, int], texts: list[str], pattern: str) -> None:
    special = {"<|endoftext|>": len(ranks), "endoftext": len(ranks) + 5}
    path = write_ranks(tmp_path, ranks, {"pattern": pattern, "special_tokens": special})
    original = tiktoken.Encoding(
        "my", pat_str=PATTERNS.get(pattern, pattern), mergeable_ranks=ranks, special_tokens=special
    )
    for found in (load_tokenizer(path), load_tokenizer(tmp_path)):
        assert found.token_to_id("endoftext") == len(ranks) + 5
        assert end_of_document_id(found, path) == len(ranks)
        same_ids(found, original.encode_ordinary, odd(texts))
        assert found.decode(found.encode(texts[0]).ids) == texts[0]


@pytest.mark.parametrize(
    ("pattern", "name"), [("gpt2", "r50k_base"), ("cl100k", "cl100k_base"), ("o200k", "o200k_base")]
)
def test_white_space_is_cut_as_the_published_encodings_cut_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, name: str
) -> None:
    """With a token for every run of white space, so that each place of a cut shows."""
    public = pytest.importorskip("tiktoken_ext.openai_public")
    monkeypatch.setattr(public, "load_tiktoken_bpe", lambda *_, **__: {})  # it would be fetched
    ranks = {bytes([byte]): byte for byte in range(256)}
    for length in (2, 3, 4):
        ranks |= {bytes(one): len(ranks) + k for k, one in enumerate(itertools.product(b" \n\r\t", repeat=length))}
    tokenizer = load_tokenizer(write_ranks(tmp_path, ranks, {"pattern": pattern}))
    published = getattr(public, name)()["pat_str"]
    original = tiktoken.Encoding("my", pat_str=published, mergeable_ranks=ranks, special_tokens={})
    parts = (itertools.product("a \n\r", repeat=length) for length in range(1, 6))
    same_ids(tokenizer, original.encode_ordinary, ["".join(letters) for part in parts for letters in part])


def test_a_token_that_no_others_add_up_to_is_found_as_a_word(tmp_path: Path) -> None:
    ranks = {bytes([byte]): byte for byte in range(256)} | {b"abcd": 300}
    tokenizer = load_tokenizer(write_ranks(tmp_path, ranks, {"pattern": "gpt2"}))
    assert tokenizer.encode("abcd abcd").ids == [300, *b" abcd"]


def same_ids(tokenizer: Tokenizer, original: Callable[[str], Any], texts: list[str]) -> None:
    tokenizer.encode_special_tokens = True
    for text in texts:
        assert tokenizer.encode(text, add_special_tokens=False).ids == original(text), repr(text[:80])


@pytest.mark.parametrize(
    ("change", "beside", "message"),
    [
        ({}, None, r"does not say how text is cut into words; write my\.tiktoken\.json"),
        ({}, {"pattern": 3}, "is not what it should be"),
        ({}, {"pattern": "("}, "the pattern cannot be used"),
        ({}, {"pattern": "gpt2", "special_tokens": {"<a>": 7}}, "the id of <a> is that of a token"),
        ({b"two": 8}, {"pattern": "gpt2"}, "gives two tokens the same rank"),
        ({b"": 70000}, {"pattern": "gpt2"}, r"my\.tiktoken:\d+: not a token in base64 and its rank"),
        ({b"a": None}, {"pattern": "gpt2"}, "has no token for byte 97"),
    ],
)
def test_what_tiktoken_files_lack_is_named(
    tmp_path: Path, ranks: dict[bytes, int], change: dict[bytes, Any], beside: object, message: str
) -> None:
    changed = {token: rank for token, rank in (ranks | change).items() if rank is not None}
    with pytest.raises(InputError, match=message):
        load_tokenizer(write_ranks(tmp_path, changed, beside))


def train_model(folder: Path, texts: list[str], **options: Any) -> Path:
    prefix = folder / "my"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in texts for line in text.splitlines() if line),
        model_prefix=str(prefix),
        minloglevel=2,
        **{"vocab_size": 900, "character_coverage": 0.999, "num_threads": 1, **options},
    )
    return folder / "my.model"


@pytest.mark.parametrize(
    "options",
    [
        {"byte_fallback": True, "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
        {"byte_fallback": True, "normalization_rule_name": "identity", "split_digits": True},
        {"normalization_rule_name": "identity", "add_dummy_prefix": False, "split_by_whitespace": False},
    ],
)
def test_sentencepiece(tmp_path: Path, texts: list[str], options: dict[str, Any]) -> None:
    path = train_model(tmp_path, texts, model_type="bpe", **options)
    original = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.get_vocab_size() == original.get_piece_size()
    assert end_of_document_id(tokenizer, path) == original.eos_id()
    same_ids(tokenizer, original.encode, odd(texts))
    if not options.get("remove_extra_whitespaces", True):
        text = MORE[0]
        assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_user_defined_symbols(tmp_path: Path, texts: list[str]) -> None:
    options: dict[str, Any] = {
        "normalization_rule_name": "identity",
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "byte_fallback": True,
        "user_defined_symbols": ["\u2581\u2581", "\u2581\u2581\u2581", "<|a|>", "()"],
    }
    path = train_model(tmp_path, texts, model_type="bpe", **options)
    original = sentencepiece.SentencePieceProcessor(model_file=str(path))
    more = ["<|a|>", " <|a|> ()x<|a|><|a|></s><|a|>"]
    same_ids(load_tokenizer(path), original.encode, [*odd(texts), *more])


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"text", bytes(100)):
        (tmp_path / "my.model").write_bytes(content)
        with pytest.raises(InputError, match=r"my\.model is not a SentencePiece model"):
            load_tokenizer(tmp_path)


def test_models_of_another_kind_are_refused(tmp_path: Path, texts: list[str]) -> None:
    for options, message in (
        ({"model_type": "char"}, "its type is not BPE"),
        ({"model_type": "unigram"}, "its type is not BPE"),
        ({"model_type": "bpe", "user_defined_symbols": ["<|a|>"]}, "puts a space before every text"),
        ({"model_type": "bpe", "treat_whitespace_as_suffix": True}, "spaces at the ends of words"),
        ({"model_type": "bpe", "normalization_rule_name": "nmt_nfkc"}, "replaces characters by the rules nmt_nfkc"),
    ):
        path = train_model(tmp_path, texts, **{"normalization_rule_name": "identity", **options})
        with pytest.raises(InputError, match=message):
            load_tokenizer(path)


def test_prepare_takes_them(tmp_path: Path, ranks: dict[bytes, int]) -> None:
    (tmp_path / "in.txt").write_text(MORE[0])
    tokenizer = write_ranks(tmp_path, ranks, {"pattern": "cl100k", "special_tokens": {"<|endoftext|>": 5000}})
    prepare(
        PrepareRequest(
            inputs=(tmp_path / "in.txt",), tokenizer=tokenizer, output_prefix=tmp_path / "a", held_out_fraction=0.0
        )
    )
    ids = IndexedDataset.open(tmp_path / "a_text_document").tokens(0).tolist()
    original = tiktoken.Encoding("my", pat_str=PATTERNS["cl100k"], mergeable_ranks=ranks, special_tokens={})
    assert ids == [*original.encode_ordinary(MORE[0]), 5000]
