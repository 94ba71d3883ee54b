"""Tokenizers of the `tokenizers` library: loading one, asking it a few things, and training one."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from firstlight.base.errors import InputError
from firstlight.data import sentencepiece_model, tiktoken_file

END_OF_DOCUMENT = "<|endoftext|>"
PADDING = "<|pad|>"
SMALLEST_VOCABULARY = 258
"""256 bytes and the two special tokens."""

_FILE = "tokenizer.json"
_CONFIG_FILE = "tokenizer_config.json"
OTHER_LIBRARIES = {
    tiktoken_file.SUFFIX: tiktoken_file.load_tiktoken,
    sentencepiece_model.SUFFIX: sentencepiece_model.load_sentencepiece,
}
"""What loads the files of other libraries, by their suffix."""
_WELL_KNOWN_ENDS = (END_OF_DOCUMENT, "<｜end▁of▁sentence｜>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>")
_WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Llama 3's: numbers in groups of three, indentation as one word, line ends by themselves. Good for code."""


def tokenizer_file(path: Path) -> Path:
    """The tokenizer file that `path` is, or that lies in the folder `path`: a tokenizer.json, else the only other one.

    Raises InputError if there is none.
    """
    file = path
    if path.is_dir():
        others = sorted(one for suffix in OTHER_LIBRARIES for one in path.glob(f"*{suffix}"))
        file = others[0] if len(others) == 1 and not (path / _FILE).is_file() else path / _FILE
    if not file.is_file():
        raise InputError(
            f"there is no tokenizer in {path}; name a {_FILE} or a folder with one, or a file of "
            f"{' or '.join(OTHER_LIBRARIES)}"
        )
    return file


def tokenizer_files(path: Path) -> list[Path]:
    """The tokenizer file and, where there is one, the file that says how it is to be read."""
    file = tokenizer_file(path)
    beside = tiktoken_file.words_file(file)
    return [file, beside] if file.suffix == tiktoken_file.SUFFIX and beside.is_file() else [file]


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json, .tiktoken or .model file, or of a folder with one; it never truncates or pads.

    Raises InputError when the file is missing or is not a tokenizer, or would not give the ids of its own library.
    """
    file = tokenizer_file(path)
    if file.suffix in OTHER_LIBRARIES:
        return OTHER_LIBRARIES[file.suffix](file)
    try:
        tokenizer = Tokenizer.from_buffer(file.read_bytes())
    except ValueError as error:
        raise InputError(f"{file} is not a tokenizer of the `tokenizers` library: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """The highest id plus one, added tokens included: the least number of embedding rows that will do."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def check_vocabulary(path: Path, vocab_size: int) -> None:
    """Raise InputError when the tokenizer in `path` has ids that a model of `vocab_size` has no embedding for."""
    needed = vocabulary_size(load_tokenizer(path))
    if needed > vocab_size:
        raise InputError(
            f"model.vocab_size = {vocab_size} is smaller than the {needed} ids of the tokenizer {path}; "
            f"set model.vocab_size to {needed} or more, or use a tokenizer with fewer ids"
        )


def end_of_document_id(tokenizer: Tokenizer, path: Path, name: str | None = None) -> int:
    """The id that ends documents: of the token `name`, else of the `eos_token` in the tokenizer_config.json beside
    `path`, else of the first well-known name that the tokenizer has. Raises InputError when there is none."""
    wanted = name if name is not None else _configured_end(path)
    if wanted is not None:
        return token_id(tokenizer, path, wanted, "--eod-token")
    for candidate in _WELL_KNOWN_ENDS:
        found: int | None = tokenizer.token_to_id(candidate)
        if found is not None:
            return found
    raise InputError(
        f"which token of {path} ends a document is not known: {_CONFIG_FILE} names no eos_token, and none of "
        f"{', '.join(_WELL_KNOWN_ENDS)} is in the vocabulary; name it with --eod-token"
    )


def token_id(tokenizer: Tokenizer, path: Path, name: str, flag: str) -> int:
    """The id of the token `name`. Raises InputError, naming the flag that can name another, when there is none."""
    found: int | None = tokenizer.token_to_id(name)
    if found is None:
        raise InputError(f'the tokenizer {path} has no token "{name}"; name one that it has with {flag}')
    return found


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE tokenizer of at most `vocab_size` ids, special tokens first; the same text gives the same one.

    Raises InputError when `vocab_size` has no room for the 256 bytes and the special tokens.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise InputError(
            f"a byte-level tokenizer needs a vocabulary of at least {SMALLEST_VOCABULARY} tokens, not {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(_WORD_PATTERN), behavior="isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, letters])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(name, normalized=False, special=True) for name in (END_OF_DOCUMENT, PADDING)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def _configured_end(path: Path) -> str | None:
    """`eos_token` of the tokenizer_config.json beside the tokenizer: a string, or an object with `content`."""
    config_file = (path if path.is_dir() else path.parent) / _CONFIG_FILE
    if not config_file.is_file():
        return None
    try:
        config = json.loads(config_file.read_bytes())
    except ValueError as error:
        raise InputError(f"{config_file} is not JSON: {error}") from None
    token = config.get("eos_token") if isinstance(config, dict) else None
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
