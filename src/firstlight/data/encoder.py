"""Text into ids: with `tokenizers`, or several times as fast with gigatoken where that gives the same ids."""

import gc
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from firstlight.base.errors import InputError

EncoderChoice = Literal["auto", "tokenizers", "gigatoken"]
Ids = NDArray[np.uint32]

_FIRST_CHARACTERS = 1 << 16
"""Texts up to so many characters are compared at the start of a run,"""
_SHARE = 2048
"""and one character of so many from then on,"""
_PART = 2048
"""in parts of so many characters."""
_ADDED_TOKENS = '"added_tokens":['
"""Cannot be part of a text in JSON, where quotes are escaped; `tokenizers` writes this list before all others."""
_PROBES = (
    "",
    " ",
    "\n \t\r\n  \r\r\n\n",
    " " * 300 + "x",
    "don't I'LL 1234567 3.14 x_y(z); \0 \u200d\ufeff \u3000\u00a0",
    "e\u0301 \u00e9 \U0001f469\u200d\U0001f4bb \u65e5\u672c \ub9d0 \u043c\u0438\u0440 \u0661\u0662 \u1e9b\u0323 \u212b",
)
"""Where tokenizers are most likely to differ. The added tokens, spelled out, are looked at as well."""


class Encoder(Protocol):
    """Turns texts into ids, without the special tokens that a tokenizer would put around them."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    def encode(self, texts: Sequence[str]) -> list[Ids]: ...


class EncodersDifferError(Exception):
    """gigatoken and `tokenizers` give different ids for a text of the corpus."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The encoder to begin with, the one to fall back to (None: it is the same one), and why not the fast one."""

    encoder: Encoder
    fallback: Encoder | None = None
    reason: str | None = None


class TokenizersEncoder:
    """Hugging Face `tokenizers`, on as many threads as the environment says."""

    name = "tokenizers"

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.version = version("tokenizers")
        self._tokenizer = tokenizer

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.uint32) for encoding in encodings]


class GigatokenEncoder:
    """gigatoken, compared with an exact encoder on the first texts and on a few characters of every batch."""

    name = "gigatoken"

    def __init__(self, fast: Any, exact: Encoder) -> None:
        self.version = version("gigatoken")
        self._fast = fast
        self._exact = exact
        self._num_characters = 0
        self._num_compared = 0

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """The ids of each text. Raises EncodersDifferError as soon as any of those compared differ."""
        self.compare(self._sample(texts))
        return self._encode(texts)

    def compare(self, texts: Sequence[str]) -> None:
        """Raise EncodersDifferError unless all texts get the same ids from both."""
        if not texts:
            return
        for text, ours, theirs in zip(texts, self._encode(texts), self._exact.encode(texts), strict=True):
            if not np.array_equal(ours, theirs):
                place = int((ours[: len(theirs)] == theirs[: len(ours)]).argmin()) if len(ours) and len(theirs) else 0
                raise EncodersDifferError(
                    f"gigatoken differs from tokenizers at token {place} of {_shown(text)}: "
                    f"{ours[place : place + 3].tolist()}, not {theirs[place : place + 3].tolist()}"
                )

    def _encode(self, texts: Sequence[str]) -> list[Ids]:
        layout = self._fast.encode_batch(list(texts)).layout
        ids = np.asarray(layout.content.data)
        offsets = np.asarray(layout.offsets.data).tolist()
        del layout
        gc.collect(0)  # awkward's arrays refer to themselves: uncollected, dozens of them would keep their ids
        return [ids[start:end] for start, end in zip(offsets, offsets[1:], strict=False)]

    def _sample(self, texts: Sequence[str]) -> list[str]:
        """Parts of `texts` to compare: all that fit at the start of a run, then spread ones."""
        sample = []
        for text in texts:
            due = min(_FIRST_CHARACTERS, self._num_characters + len(text)) + self._num_characters // _SHARE
            if self._num_compared < due:
                is_first = self._num_characters < _FIRST_CHARACTERS
                size = _FIRST_CHARACTERS if is_first else _PART
                # A place that differs from text to text, and is always the same in a repeated run.
                start = 0 if len(text) <= size else self._num_characters % (len(text) - size)
                sample.append(text[start : start + size])
                self._num_compared += min(size, len(text))
            self._num_characters += len(text)
        return sample


def choose_encoder(tokenizer: Tokenizer, wanted: EncoderChoice) -> Choice:
    """The encoder for `tokenizer`, whose `encode_special_tokens` says whether special tokens in texts are plain text.

    Raises InputError when gigatoken is asked for by name and cannot be used.
    """
    exact = TokenizersEncoder(tokenizer)
    if wanted == "tokenizers":
        return Choice(encoder=exact)
    reason = None
    try:
        fast = GigatokenEncoder(_gigatoken(tokenizer), exact)
        fast.compare([*_PROBES, _spelled_out(tokenizer)])
        return Choice(encoder=fast, fallback=exact)
    except ImportError:
        reason = "gigatoken is not installed (pip install gigatoken)"
    except EncodersDifferError as difference:
        reason = str(difference)
    except (ValueError, TypeError, RuntimeError, LookupError, NotImplementedError) as error:
        reason = f"gigatoken cannot use this tokenizer: {str(error).splitlines()[0] if str(error) else type(error)}"
    if wanted == "gigatoken":
        raise InputError(f"{reason}; use --encoder auto or --encoder tokenizers")
    return Choice(encoder=exact, reason=reason)


def _gigatoken(tokenizer: Tokenizer) -> Any:
    """gigatoken's tokenizer of the same ids. It always reads special tokens in a text, so it is told of none."""
    gigatoken = importlib.import_module("gigatoken")  # an optional package
    description = tokenizer.to_str()
    return gigatoken.Tokenizer.from_json(
        _without_special_tokens(description) if tokenizer.encode_special_tokens else description
    )


def _without_special_tokens(description: str) -> str:
    """A tokenizer.json whose list of added tokens has no special ones; the vocabulary, megabytes of it, stays text."""
    start = description.index(_ADDED_TOKENS) + len(_ADDED_TOKENS) - 1
    tokens, end = json.JSONDecoder().raw_decode(description, start)
    kept = json.dumps([token for token in tokens if not token["special"]])
    return f"{description[:start]}{kept}{description[end:]}"


def _spelled_out(tokenizer: Tokenizer) -> str:
    tokens = tokenizer.get_added_tokens_decoder().values()
    return "".join(f"a{token.content} {token.content}\n" for token in tokens)


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}... ({len(text)} characters)"
