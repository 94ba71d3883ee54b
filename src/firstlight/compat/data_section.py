"""The data section out of the facts, and the seed that its order comes from."""

from pathlib import PurePosixPath
from typing import Any

from firstlight.compat.facts import Facts
from firstlight.compat.mindrecord_paths import mindrecord_sets
from firstlight.compat.old_file import Generation

Section = dict[str, Any]
_MEGATRON = "BlendedMegatronDatasetDataLoader"
_MINDRECORD = ("MindDataset", "TFRecordDataset")
_UNNAMED = "name-the-data-set.mindrecord"
_DEFAULT_SEED = 1234
"""What GPTDataset takes where no seed is written."""


def sequence_length_of(facts: Facts, default: int) -> int:
    """Of the data, which must be that of the model."""
    return max(1, facts.count("sequence_length", default))


def build_data(facts: Facts, sequence_length: int) -> Section:
    """Sources, order and tokenizer."""
    loader = str(facts.value("loader", _MEGATRON))
    train: Section = {"sources": [], "order": "megatron", "sequence_length": sequence_length}
    if loader == _MEGATRON:
        train |= _megatron(facts)
    elif loader == _MINDRECORD[0]:
        train |= _mindrecord(facts)
    else:
        facts.refuse(
            "loader",
            "is not translated; BlendedMegatronDatasetDataLoader and MindDataset are, and text is read with sources of "
            "kind huggingface",
        )
    return {"train": train, "tokenizer": _tokenizer(facts, train["sources"])}


def seed_of(facts: Facts) -> int:
    """The seed of the order of the data; it is also that of the weights here."""
    run_seed = facts.count("run_seed", 42 if facts.generation is Generation.PYNATIVE else 1)
    if str(facts.value("loader", _MEGATRON)) != _MEGATRON:
        return facts.count("dataset_seed", run_seed)
    if facts.has("random_seed"):
        seed = facts.count("random_seed", _DEFAULT_SEED)
        if facts.has("data_seed") and facts.count("data_seed", seed) != seed:
            facts.refuse("random_seed", f"contradicts seed = {facts.value('data_seed')}")
        if seed != _DEFAULT_SEED and not facts.has("data_seed"):
            facts.note(
                "training",
                f"random_seed = {seed} is the seed here; MindFormers does not read it and takes {_DEFAULT_SEED}",
                "random_seed",
            )
    else:
        seed = facts.count("data_seed", _DEFAULT_SEED)
    if seed != run_seed:
        facts.note(
            "training",
            f"the seed is that of the data's order, {seed}; weights begin with it too, and not with {run_seed} "
            "(MindSpore's random numbers are others in any case)",
            "run_seed",
        )
    return seed


def _megatron(facts: Facts) -> Section:
    section: Section = {"sources": _blend(facts), "split": _split(facts)}
    if facts.has("train_blend"):
        section["split"] = "1,0,0"
    if facts.is_on("mask_after_end"):
        section["mask_after_end_of_document"] = True
    if _documents_are_apart(facts):
        section["documents"] = "separate"
    if facts.value("index_cache"):
        section["index_cache"] = str(facts.value("index_cache"))
    return section


def _split(facts: Facts) -> str:
    written = facts.value("split", "1, 0, 0")
    shares = [str(share) for share in written] if isinstance(written, list) else str(written).split(",")
    return ",".join(share.strip() for share in shares)


def _blend(facts: Facts) -> list[Section]:
    """Weights and prefixes in turn, or prefixes alone."""
    fact = "train_blend" if facts.has("train_blend") else "blend"
    words = facts.words(fact) if facts.value(fact) else []
    if not words:
        facts.note("data", "there is no data_path: the tokens are made up, as in MindFormers", "sizes")
        return [{"kind": "mock"}]
    if len(words) % 2 == 0 and all(_is_number(word) for word in words[::2]):
        pairs = zip(words[::2], words[1::2], strict=True)
        return [{"path": path, "weight": float(weight)} for weight, path in pairs]
    if any(_is_number(word) for word in words):
        facts.refuse(fact, "is neither weights and prefixes in turn nor prefixes alone")
    return [{"path": path, "weight": None} for path in words]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _documents_are_apart(facts: Facts) -> bool:
    """Rotary embedding sees differences of positions only, so it is the mask that tells documents apart."""
    is_masked = facts.is_on("mask_restarts") or facts.is_on("compressed_mask")
    restart = facts.is_on("positions_restart")
    if restart and not is_masked:
        facts.refuse(
            "positions_restart", "without reset_attention_mask is not there: documents are apart in both or in none"
        )
    if is_masked and not restart:
        facts.note(
            "data",
            "positions begin anew in each document; rotary embedding sees their differences only",
            "mask_restarts",
            "compressed_mask",
        )
    return is_masked


def _mindrecord(facts: Facts) -> Section:
    paths = mindrecord_sets(facts.words("mindrecord_paths")) if facts.has("mindrecord_paths") else []
    if not paths:
        paths = [_UNNAMED]
        facts.note("data", "dataset_dir is empty: name the MindRecord set in data.train.sources", "mindrecord_paths")
    source: Section = {"kind": "mindrecord"}
    if "labels" in facts.words("columns"):
        source["labels_column"] = "labels"
    if len(paths) > 1:
        source["weight"] = None
        facts.note("data", "the sets of a folder are mixed, and all of them read equally often", "mindrecord_paths")
    order = "permuted" if facts.is_on("is_shuffled") else "sequential"
    return {"sources": [{**source, "path": path} for path in paths], "order": order}


def _tokenizer(facts: Facts, sources: list[Section]) -> str:
    """Named by the processor, or in the folder of the first source: MindFormers needs none to train."""
    processor = facts.value("tokenizer_file")
    written = processor.get("tokenizer") if isinstance(processor, dict) else None
    if isinstance(written, dict):
        for key in ("tokenizer_file", "vocab_file"):
            if written.get(key):
                return str(written[key])
    if facts.value("config_folder"):
        return str(facts.value("config_folder"))
    first = next((str(source["path"]) for source in sources if "path" in source), "")
    path = str(PurePosixPath(first).parent / "tokenizer.json")
    facts.note("data", f"MindFormers trains without a tokenizer; here {path} is taken, beside the data. Name yours")
    return path
