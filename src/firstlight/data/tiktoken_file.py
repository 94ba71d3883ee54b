"""Files of BPE ranks, NAME.tiktoken, as tokenizers of the `tokenizers` library.

A line of the file is a token's bytes in base64 and its rank. How text is cut into words, and which tokens are special,
does not stand there: NAME.tiktoken.json says it, {"pattern": ..., "special_tokens": {...}}.
"""

import base64
import importlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from firstlight.base.errors import InputError
from firstlight.data.tokenizer_check import require_same_ids

SUFFIX = ".tiktoken"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_REST = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORDS = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
PATTERNS = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "cl100k": rf"{_CONTRACTIONS}{_WORDS}|\s+\z{_REST}",
    "llama3": rf"{_CONTRACTIONS}{_WORDS}{_REST}",
    "qwen": rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*{_REST}",
    "o200k": rf"{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}"
    rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*{_REST}",
}
"""How text is cut into words: of gpt2, r50k and p50k; of cl100k, to which white space at the end of a text is one
word; of Llama 3, to which it is not; of Qwen; of o200k."""
_LARGEST_RANK = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class _Words:
    pattern: str
    special_tokens: Mapping[str, int]


def words_file(path: Path) -> Path:
    """The file beside `path` that names the pattern and the special tokens."""
    return path.with_name(f"{path.name}.json")


def load_tiktoken(path: Path) -> Tokenizer:
    """The tokenizer of a .tiktoken file; compared with tiktoken's own ids on odd texts and on all of its tokens.

    Raises InputError when the file or the one beside it is not what it should be, or tiktoken is missing or differs.
    """
    ranks, words = _ranks(path), _words(path)
    by_rank = set(ranks.values())
    taken = [name for name, rank in words.special_tokens.items() if rank in by_rank]
    if taken:
        raise InputError(f"{words_file(path)}: the id of {taken[0]} is that of a token in {path.name}; give it another")
    try:
        tiktoken = importlib.import_module("tiktoken")  # an optional package
    except ImportError:
        raise InputError(
            f"{path} is checked with the package tiktoken, which is missing: pip install tiktoken"
        ) from None
    special = dict(words.special_tokens)
    try:
        original = tiktoken.Encoding(path.name, pat_str=words.pattern, mergeable_ranks=ranks, special_tokens=special)
    except ValueError as error:
        raise InputError(f"{words_file(path)}: the pattern cannot be used: {error}") from None
    tokens = [token.decode(errors="ignore") for token in ranks]

    def checked(*, keeps_words: bool) -> Tokenizer:
        tokenizer = _tokenizer(path, ranks, words, keeps_words=keeps_words)
        require_same_ids(path, tokenizer, original.encode_ordinary, (*tokens, *words.special_tokens), "tiktoken")
        return tokenizer

    try:
        return checked(keeps_words=False)
    except InputError:
        return checked(keeps_words=True)


def _tokenizer(path: Path, ranks: Mapping[bytes, int], words: _Words, *, keeps_words: bool) -> Tokenizer:
    """With `keeps_words`, a word that is a token is never put together from others, as tiktoken has it. It matters for
    tokens that no others add up to; but then a special token that is a word by itself is found in plain text."""
    letters = _letters()
    spelled = {token: "".join(letters[byte] for byte in token) for token in ranks}
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()} | dict(words.special_tokens)
    merges = [
        (spelled[token[:cut]], spelled[token[cut:]])
        for token in sorted(ranks, key=ranks.__getitem__)
        for cut in _cuts(token, ranks)
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=keeps_words))
    try:
        cut_words = pre_tokenizers.Split(Regex(words.pattern), behavior="isolated")
    except Exception as error:  # noqa: BLE001  (the library raises this very class)
        raise InputError(f"{words_file(path)}: the pattern cannot be used: {error}") from None
    into_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut_words, into_letters])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in words.special_tokens])
    return tokenizer


def _cuts(token: bytes, ranks: Mapping[bytes, int]) -> list[int]:
    """Where a token may have been put together from two; the parts that are made first come first."""
    cuts = [cut for cut in range(1, len(token)) if token[:cut] in ranks and token[cut:] in ranks]
    return sorted(cuts, key=lambda cut: (ranks[token[:cut]], ranks[token[cut:]]))


def _letters() -> dict[int, str]:
    """The character that stands for each byte: itself where it can be seen, else one from 256 on."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + number) for number, byte in enumerate(hidden)}


def _ranks(path: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            content = base64.b64decode(token, validate=True)
            if content in ranks or not content or not 0 <= int(rank) <= _LARGEST_RANK:
                raise ValueError("an empty token, or one that is there twice, or a rank that is none")
            ranks[content] = int(rank)
        except ValueError as error:
            raise InputError(f"{path}:{number}: not a token in base64 and its rank: {error}") from None
    if len(set(ranks.values())) < len(ranks):
        raise InputError(f"{path} gives two tokens the same rank; copy the file again")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise InputError(f"{path} has no token for byte {missing[0]}; a byte-level vocabulary has one for each")
    return ranks


def _words(path: Path) -> _Words:
    file = words_file(path)
    wanted = f'{{"pattern": "{"|".join(PATTERNS)}" or a regular expression, "special_tokens": {{"<|endoftext|>": id}}}}'
    if not file.is_file():
        raise InputError(f"{path} does not say how text is cut into words; write {file.name} beside it: {wanted}")
    try:
        content = json.loads(file.read_bytes())
        pattern, special = content["pattern"], content.get("special_tokens", {})
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file} is not what it should be: {wanted}") from None
    is_special = isinstance(special, dict) and all(
        type(one) is int and 0 <= one <= _LARGEST_RANK for one in special.values()
    )
    if not isinstance(pattern, str) or not is_special or len(set(special.values())) < len(special):
        raise InputError(f"{file} is not what it should be: {wanted}")
    return _Words(pattern=PATTERNS.get(pattern, pattern), special_tokens=special)
