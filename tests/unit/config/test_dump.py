"""The resolved configuration is a configuration file, and the schema describes all of it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstlight.config.load import dump, load
from firstlight.config.schema import RunConfig
from tests.architecture.sources import ROOT
from tests.unit.config.yaml_file import loaded, written

LLAMA = [
    "model.family=llama",
    "model.attention={kind: gqa, num_attention_heads: 4, rope: {theta: 500000, scaling: {kind: llama3, factor: 8, "
    "original_max_position_embeddings: 16}}}",
    "model.feed_forward={kind: dense, intermediate_size: 64}",
    "model.multi_token_prediction=null",
    "optimizer.max_grad_norm=null",
    "lr_scheduler={type: warmup_stable_decay, warmup_steps: 1, decay_steps: 1}",
    "monitor.peak_flops_per_second=null",
    "monitor.sinks=[]",
    "data.evaluate=[]",
    "training.output_folder='/a folder: with #signs'",
]


def read_back(folder: Path, config: RunConfig) -> RunConfig:
    return load(written(folder, dump(config))).config


@pytest.mark.parametrize("overrides", [[], LLAMA], ids=["tiny", "llama"])
def test_a_dumped_configuration_loads_as_an_equal_one(tmp_path: Path, overrides: list[str]) -> None:
    config = loaded(tmp_path, overrides=overrides).config
    again = read_back(tmp_path, config)
    assert again == config
    assert dump(again) == dump(config)


def test_the_example_loads_as_it_was_dumped(tmp_path: Path) -> None:
    config = load(ROOT / "examples" / "quickstart.yaml").config
    assert read_back(tmp_path, config) == config


@settings(max_examples=30, deadline=None)
@given(number=st.floats(min_value=1e-300, max_value=1e300), steps=st.integers(1, 10**15))
def test_numbers_are_dumped_to_the_bit(tmp_path_factory: pytest.TempPathFactory, number: float, steps: int) -> None:
    folder = tmp_path_factory.mktemp("dump")
    config = loaded(folder, overrides=[f"optimizer.eps={number!r}", f"training.steps={steps}"]).config
    assert config.optimizer.eps == number
    assert read_back(folder, config) == config


@pytest.mark.parametrize("name", ["wiki", "yes", "null", "007", "1.5", "2001-01-01", "-"])
def test_a_name_stays_a_name(tmp_path: Path, name: str) -> None:
    config = loaded(tmp_path, overrides=[f"data.evaluate.0.name='{name}'"]).config
    assert config.data.evaluate[0].name == name
    assert read_back(tmp_path, config) == config


def test_a_name_like_a_number_stays_a_name(tmp_path: Path) -> None:
    config = load(written(tmp_path)).config
    named = config.data.evaluate[0].model_copy(update={"name": "1e5"})
    data = config.data.model_copy(update={"evaluate": (named,)})
    config = config.model_copy(update={"data": data})
    assert read_back(tmp_path, config) == config


def test_the_order_is_that_of_the_schema(tmp_path: Path) -> None:
    sections = [line.split(":")[0] for line in dump(loaded(tmp_path).config).splitlines() if line[0].isalpha()]
    assert sections == list(RunConfig.model_fields)


def test_the_schema_is_valid_json_that_knows_every_section() -> None:
    schema = json.loads(json.dumps(RunConfig.model_json_schema(), allow_nan=False))
    assert set(schema["properties"]) == set(RunConfig.model_fields)
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) == {"model", "data", "optimizer", "training"}
    for target in references(schema):
        assert target.removeprefix("#/$defs/") in schema["$defs"]
    kinds = schema["$defs"]["ModelConfig"]["properties"]["attention"]["discriminator"]["mapping"]
    assert set(kinds) == {"mla", "gqa"}


def references(node: Any) -> list[str]:
    """Every `$ref` in a schema."""
    if isinstance(node, dict):
        own = [node["$ref"]] if "$ref" in node else []
        return own + [found for value in node.values() for found in references(value)]
    return [found for value in node for found in references(value)] if isinstance(node, list) else []
