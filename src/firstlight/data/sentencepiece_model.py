"""SentencePiece models, NAME.model, as tokenizers of the `tokenizers` library."""

import importlib
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from firstlight.base.errors import InputError
from firstlight.data.tokenizer_check import require_same_ids

SUFFIX = ".model"
_SPACE = "\u2581"
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_BPE = 2


def load_sentencepiece(path: Path) -> Tokenizer:
    """The tokenizer of a SentencePiece model of type BPE; compared with SentencePiece's own ids on odd texts and on
    all of its pieces.

    Raises InputError when it is no model, SentencePiece is missing, or the ids would not be the same.
    """
    try:
        library = importlib.import_module("sentencepiece")  # an optional package
        messages = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
        protobuf = importlib.import_module("google.protobuf.message")
    except ImportError:
        raise InputError(f"{path} is read with the package sentencepiece: pip install sentencepiece protobuf") from None
    content = path.read_bytes()
    try:
        original = library.SentencePieceProcessor(model_proto=content)
        model = messages.ModelProto.FromString(content)
    except (RuntimeError, ValueError, TypeError, protobuf.DecodeError) as error:
        raise InputError(f"{path} is not a SentencePiece model: {str(error)[:200]}") from None
    _require_convertible(path, model)
    tokenizer = Tokenizer(_model(model))
    tokenizer.normalizer = _normalizer(model.normalizer_spec)
    tokenizer.decoder = _decoder(model)
    special = [piece.piece for piece in model.pieces if piece.type in (_CONTROL, _UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    named = [piece.piece for piece in model.pieces if piece.type == _USER_DEFINED]
    tokenizer.add_tokens([AddedToken(name, normalized=True, special=False) for name in named])
    require_same_ids(path, tokenizer, original.encode, _texts(model), "SentencePiece")
    return tokenizer


def _require_convertible(path: Path, model: Any) -> None:
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    types = {piece.type for piece in model.pieces}
    has_symbols = _USER_DEFINED in types
    if _UNKNOWN not in types:
        raise InputError(f"{path} is not a SentencePiece model: it has no piece for what is unknown")
    reasons = {
        # Of a unigram model, equally good ways to cut a text are told apart by how sums of float32 are rounded.
        "its type is not BPE": trainer.model_type != _BPE,
        "it puts spaces at the ends of words": trainer.treat_whitespace_as_suffix,
        "it does not write spaces as U+2581": not normalizer.escape_whitespaces,
        # `tokenizers` looks for them in whole graphemes: a space before a joiner is not found.
        f"it replaces characters by the rules {normalizer.name}": bool(normalizer.precompiled_charsmap),
        # `tokenizers` would put none before a text that begins with a symbol, or one after each of them.
        "it has user-defined symbols and puts a space before every text": has_symbols and normalizer.add_dummy_prefix,
        "it has unused pieces": _UNUSED in types,
    }
    if faults := [reason for reason, is_so in reasons.items() if is_so]:
        raise InputError(f"{path} cannot be used: {', '.join(faults)}; convert it to a tokenizer.json by other means")


def _model(model: Any) -> Any:
    pieces = model.pieces
    unknown = next(number for number, piece in enumerate(pieces) if piece.type == _UNKNOWN)
    has_bytes = bool(model.trainer_spec.byte_fallback)
    return models.BPE(
        {piece.piece: number for number, piece in enumerate(pieces)},
        _merges(pieces),
        unk_token=pieces[unknown].piece,
        fuse_unk=True,
        byte_fallback=has_bytes,
    )


def _merges(pieces: Any) -> list[tuple[str, str]]:
    """Of two neighbours SentencePiece joins those first that make the piece with the highest score."""
    scores = {piece.piece: piece.score for piece in pieces if piece.type == _NORMAL}
    return [
        (name[:cut], name[cut:])
        for name in sorted(scores, key=lambda name: -scores[name])
        for cut in sorted(range(1, len(name)), key=lambda cut: -scores.get(name[:cut], 0.0))
        if name[:cut] in scores and name[cut:] in scores
    ]


def _normalizer(spec: Any) -> Any:
    steps: list[Any] = []
    if spec.remove_extra_whitespaces:
        # A U+2581 of the text itself goes at the end, and nowhere else.
        steps += [normalizers.Replace(Regex(rf"\A +|[ {_SPACE}]+\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _decoder(model: Any) -> Any:
    steps: list[Any] = [decoders.Replace(_SPACE, " ")]
    if model.trainer_spec.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if model.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    return decoders.Sequence(steps)


def _texts(model: Any) -> list[str]:
    return [piece.piece.replace(_SPACE, " ") for piece in model.pieces]
