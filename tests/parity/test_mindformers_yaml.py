"""MindFormers' own YAML files, and the tables of its keys: every key has a row, and what pretrains is valid here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.base.errors import InputError
from firstlight.cli.config import check_files
from firstlight.compat.old_file import Generation
from firstlight.compat.table import TABLE
from firstlight.compat.translation import Translation, translate
from firstlight.config.load import Loaded, load_source
from firstlight.config.source import Source

CONFIGS = Path(__file__).parents[3] / "shared" / "configs" / "mindformers"
HOME = Path(__file__).parents[2] / "src" / "firstlight" / "compat" / "home"
RESEARCH = HOME / "research" / "deepseek3" / "deepseek3_671b"
pytestmark = pytest.mark.skipif(not CONFIGS.is_dir(), reason=f"the YAML files of MindFormers are not in {CONFIGS}")

WORLDS = {
    "g1_pretrain_deepseek3_1b": 8,
    "g1_pretrain_deepseek3_671b": 1024,
    "g1_pretrain_mixtral_8x7b": 16,
    "g2_pretrain_deepseek3_671b": 256,
    "g2_pretrain_qwen3_30b_a3b_4k": 16,
    "g3_deepseek3_test": 1,
    "g3_pretrain_deepseek3_1b_8p_pynative": 8,
}
BATCHES = {
    "g1_pretrain_deepseek3_1b": (1250, 8),
    "g1_pretrain_deepseek3_671b": (18, 512),
    "g2_pretrain_deepseek3_671b": (1000, 128),
    "g2_pretrain_qwen3_30b_a3b_4k": (500, 16),
    "g3_pretrain_deepseek3_1b_8p_pynative": (10, 8),
}
"""Steps and sequences of a step, worked out by hand."""


def translated(name: str) -> tuple[Translation, Loaded]:
    """The file, and what it is here, held to every rule."""
    translation = translate(CONFIGS / f"{name}.yaml", world_size=WORLDS[name])
    loaded = load_source(Source(values=translation.values, origins=dict(translation.origins)), name)
    loaded.require_rules(world_size=WORLDS[name])
    return translation, loaded


@pytest.mark.parametrize("name", WORLDS)
def test_a_file_that_pretrains_is_valid_on_its_own_world(name: str) -> None:
    translation, loaded = translated(name)
    assert translation.world_size == WORLDS[name] or name == "g3_deepseek3_test"
    with pytest.raises(InputError, match="there is no tokenizer in"):  # the files that it names are not here
        check_files(loaded.config)


@pytest.mark.parametrize("name", BATCHES)
def test_steps_and_batches(name: str) -> None:
    training = translated(name)[1].config.training
    assert (training.steps, training.global_batch_size) == BATCHES[name]


def test_a_template_without_sizes_takes_them_from_the_folder_that_it_names() -> None:
    translation = translate(CONFIGS / "g2_llm_pretrain_dense_template.yaml")
    assert translation.values["model"] == {"from_hf": "path/to/model_dir"}
    assert (translation.values["training"]["steps"], translation.values["training"]["global_batch_size"]) == (500, 4)


@pytest.mark.parametrize("size", ["1b", "671b"])
def test_our_own_files_mean_what_the_published_ones_do(size: str) -> None:
    ours = translate(RESEARCH / f"pretrain_deepseek3_{size}.yaml")
    theirs = translate(CONFIGS / f"g1_pretrain_deepseek3_{size}.yaml")
    assert ours.values == theirs.values


def rows_of_table(name: str) -> Iterator[list[str]]:
    """The rows of a table of keys, without its head."""
    for line in (CONFIGS / name).read_text().splitlines()[1:]:
        yield line.split("\t")


def test_every_key_of_the_legacy_template_has_a_row() -> None:
    known = {row.key.removesuffix(".**") for row in TABLE[Generation.LEGACY]}
    elsewhere = {"stable_rank_config": "monitor_config", "monitor_config": "monitor_config", "metric": "metric"}
    missing = []
    for section, key, *_ in rows_of_table("schema_legacy_template_defaults.tsv"):
        if key == "(free-form)" or section in elsewhere or section in ("callbacks", "eval_callbacks"):
            continue
        path = key if section == "general_config" else f"{section}.{key}"
        if path not in known:
            missing.append(path)
    assert not missing


def test_every_spelling_of_the_core_model_has_a_row() -> None:
    rows = {row.key.removesuffix(".**") for row in TABLE[Generation.CORE]}
    known = {key.rpartition(".")[2] for key in rows if key.startswith(("model.model_config.", "parallel_config."))}
    known |= {key.rpartition(".")[2] for key in rows if key.startswith(("recompute_config.", "swap_config."))}
    known |= {key for key in rows if "." not in key}
    missing = [
        key for key, *_ in rows_of_table("schema_yaml_key_aliases_to_transformer_config.tsv") if key not in known
    ]
    assert not missing


def test_every_key_of_the_pynative_schema_has_a_row() -> None:
    sections = {
        "CheckpointConfig": "checkpoint",
        "TrainingConfig": "training",
        "ParallelismConfig": "parallelism",
        "OptimizerConfig": "optimizer",
        "LrSchedulerConfig": "lr_scheduler",
        "DataloaderConfig": "train_dataset.dataloader",
        "TrainDatasetConfig": "train_dataset",
        "ModelConfig": "model",
        "ContextConfig": "context",
        "RecomputeConfig": "recompute",
        "RecomputeCommConfig": "recompute_comm",
        "SwapConfig": "swap",
    }
    known = {row.key.removesuffix(".**") for row in TABLE[Generation.PYNATIVE]}
    missing = [
        f"{sections[owner]}.{key}"
        for owner, key, *_ in rows_of_table("schema_pynative_train_config.tsv")
        if owner in sections and key != "dataloader" and f"{sections[owner]}.{key}" not in known
    ]
    assert not missing
