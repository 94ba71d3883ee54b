"""Name tables: every tensor has exactly one name on the hub, and no two share one."""

import pytest

from firstlight.base.errors import FirstlightError
from firstlight.config.model import ModelConfig
from firstlight.models.family import family_of
from firstlight.models.names import NameTable, same
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, meta_model, of_family

CONFIGS = {
    "deepseek": deepseek(),
    "deepseek_mtp": deepseek(multi_token_prediction={"num_layers": 2}),
    "deepseek_plain_query": deepseek(attention={"q_lora_rank": None}),
    "deepseek_no_shared": deepseek(feed_forward={"n_shared_experts": 0, "first_k_dense_replace": 0}),
    "deepseek_dense": deepseek(feed_forward={"kind": "dense", "intermediate_size": 48}),
    "llama": llama(),
    **{family: of_family(family) for family in OTHER_FAMILIES},
    "llama_tied": llama(tie_word_embeddings=True),
}


def tensor_names(config: ModelConfig) -> list[str]:
    """Parameters and buffers."""
    model = meta_model(config)
    return [name for name, _ in [*model.named_parameters(), *model.named_buffers()]]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_tensor_has_names_of_its_own(config: ModelConfig) -> None:
    table = family_of(config).names(config)
    entries = list(table.entries(tensor_names(config)))
    theirs = [name for entry in entries for name in entry.theirs]
    assert sorted(name for entry in entries for name in entry.ours) == sorted(tensor_names(config))
    assert len(theirs) == len(set(theirs))
    assert not set(theirs) & set(table.copies)
    assert not any("{" in name for name in theirs)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_copies_are_of_tensors_that_there_are(config: ModelConfig) -> None:
    assert set(family_of(config).names(config).copies.values()) <= set(tensor_names(config))


def test_names_as_on_the_hub() -> None:
    # As in model.safetensors.index.json of deepseek-ai/DeepSeek-V3, with its 61 layers and 256 experts made few.
    config = deepseek(multi_token_prediction={"num_layers": 2})
    table = family_of(config).names(config)
    assert table.theirs("embedding.weight") == ["model.embed_tokens.weight"]
    assert table.theirs("layers.12.attention.kv_a_proj.weight") == [
        "model.layers.12.self_attn.kv_a_proj_with_mqa.weight"
    ]
    assert table.theirs("layers.1.feed_forward.router.bias") == ["model.layers.1.mlp.gate.e_score_correction_bias"]
    assert table.theirs("layers.2.feed_forward.experts.up_proj") == [
        f"model.layers.2.mlp.experts.{expert}.up_proj.weight" for expert in range(8)
    ]
    assert table.theirs("mtp.0.projection.weight") == ["model.layers.3.eh_proj.weight"]
    assert table.theirs("mtp.1.output_norm.weight") == ["model.layers.4.shared_head.norm.weight"]
    assert table.theirs("mtp.1.block.attention_norm.weight") == ["model.layers.4.input_layernorm.weight"]
    assert table.copies == {
        "model.layers.3.embed_tokens.weight": "embedding.weight",
        "model.layers.3.shared_head.head.weight": "head.weight",
        "model.layers.4.embed_tokens.weight": "embedding.weight",
        "model.layers.4.shared_head.head.weight": "head.weight",
    }


@pytest.mark.parametrize("name", ["layers.0.attention.unknown.weight", "layers.x.attention_norm.weight", "weight", ""])
def test_unknown_name_is_refused(name: str) -> None:
    table = family_of(CONFIGS["deepseek"]).names(CONFIGS["deepseek"])
    with pytest.raises(FirstlightError, match=f"tensor {name} matches 0 rows of the name table"):
        table.theirs(name)


def test_name_with_two_rows_is_refused() -> None:
    table = NameTable(rows=[same("layers.{layer}.a", "x.{layer}"), same("layers.0.a", "y")], num_hidden_layers=1)
    assert table.theirs("layers.1.a") == ["x.1"]
    with pytest.raises(FirstlightError, match=r"tensor layers\.0\.a matches 2 rows"):
        table.theirs("layers.0.a")


def test_a_dot_in_a_row_is_a_dot() -> None:
    table = NameTable(rows=[same("a.b", "c")], num_hidden_layers=1)
    with pytest.raises(FirstlightError):
        table.theirs("axb")
