"""Names, shapes and cuts of parameters by arithmetic, against built models and the tables by which they are cut."""

from math import prod

import pytest
import torch

from firstlight.config.averages import AveragesConfig, EmaConfig, PmaConfig
from firstlight.config.model import ModelConfig
from firstlight.config.optimizer import AdamWConfig, MuonConfig
from firstlight.layout.buckets import buckets
from firstlight.layout.counts import count_parameters
from firstlight.layout.memory import Kept, Units, state_of_rank, units_of
from firstlight.layout.mesh import Layout
from firstlight.layout.parameters import elements_of_rank, parameters_of, parameters_of_stage, sharded_dim
from firstlight.layout.stages import Stage
from firstlight.models.family import family_of
from firstlight.models.sharding import EXPERT_SLICES, cut_of, cuts
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, meta_model, of_family

MODELS: dict[str, ModelConfig] = {
    "deepseek": deepseek(multi_token_prediction={"num_layers": 2}),
    "deepseek_direct_query": deepseek(attention={"q_lora_rank": None}),
    "llama": llama(),
    "tied": llama(tie_word_embeddings=True),
    **{family: of_family(family) for family in OTHER_FAMILIES},
}
ADAMW = Kept(optimizer=AdamWConfig(learning_rate=1))
SLICED = Layout(dp_shard=2, tp=4, ep=2, etp=2)
BY_CUT = {"vocabulary": "rows", "column": "rows", "gathered_column": "rows", "row": "columns", "copied": "copied"}


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_built_model(name: str) -> None:
    built = {key: tuple(value.shape) for key, value in meta_model(MODELS[name]).named_parameters()}
    assert {one.name: one.shape for one in parameters_of(MODELS[name])} == built


@pytest.mark.parametrize("name", MODELS)
def test_cuts_are_those_of_the_families_tables(name: str) -> None:
    table = cuts(MODELS[name])
    for one in parameters_of(MODELS[name]):
        module, _, kind = one.name.rpartition(".")
        if module.endswith("experts"):
            assert one.cut == ("expert_rows" if EXPERT_SLICES[kind] == 1 else "expert_columns")
        elif module == "head" or kind == "sinks":
            assert one.cut == "rows"
        else:
            cut = cut_of(module, table)
            expected = "added" if (cut, kind) == ("row", "bias") else BY_CUT[cut or ""]
            assert one.cut == expected, one.name


def test_elements_of_all_ranks_are_the_model() -> None:
    model = deepseek(multi_token_prediction={})
    for layout in (Layout(), Layout(dp_shard=3), Layout(dp_shard=8, ep=4), Layout(dp_shard=2, tp=4, ep=8), SLICED):
        held = sum(elements_of_rank(model, layout, rank).own for rank in range(layout.world_size))
        copies = sum(prod(one.shape) for one in parameters_of(model) if one.cut == "copied")
        assert held == count_parameters(model).total + (layout.tp - 1) * copies


@pytest.mark.parametrize("name", ["deepseek", "llama", "tied"])
def test_stages_have_the_parameters_of_their_modules(name: str) -> None:
    model, count = MODELS[name], 2
    for index, layers in enumerate((range(1), range(1, model.num_hidden_layers))):
        stage = Stage(index=index, count=count, layers=layers)
        with torch.device("meta"):
            built = family_of(model).build(model, stage)
        shapes = {key: tuple(value.shape) for key, value in built.named_parameters()}
        assert {one.name: one.shape for one in parameters_of_stage(model, stage)} == shapes


def test_a_copy_of_the_embedding_has_neither_gradient_nor_moments() -> None:
    model = deepseek(multi_token_prediction={})
    stages = [Stage(index=index, count=2, layers=layers) for index, layers in enumerate((range(2), range(2, 3)))]
    states = [state_of_rank(model, Layout(pp=2), rank, [stage], kept=ADAMW) for rank, stage in enumerate(stages)]
    embedding = model.vocab_size * model.hidden_size * 4
    assert [state.parameters - state.gradients for state in states] == [0, embedding]
    assert [state.moments for state in states] == [2 * state.gradients for state in states]
    assert sum(state.gradients for state in states) == 4 * count_parameters(model).total


def test_moments_and_averages_are_those_of_the_optimizer() -> None:
    model = deepseek(multi_token_prediction={})
    whole = state_of_rank(model, Layout(), 0, kept=ADAMW)
    half = state_of_rank(model, Layout(), 0, kept=Kept(optimizer=AdamWConfig(learning_rate=1, moments="bf16")))
    assert (whole.moments, half.moments, half.total) == (2 * whole.gradients, whole.gradients, 3 * whole.gradients)
    both = AveragesConfig(ema=EmaConfig(), pma=PmaConfig())
    muon = state_of_rank(model, Layout(), 0, kept=Kept(optimizer=MuonConfig(learning_rate=1), averages=both))
    vectors_and_words = {"embedding.weight", "head.weight"}
    of_adamw = sum(
        prod(one.shape)
        for one in parameters_of(model)
        if len(one.shape) == 1 or one.name in vectors_and_words or ".router." in one.name
    )
    assert muon.moments == whole.gradients + 4 * of_adamw
    # Two layers of experts and one of prediction ahead have eight biases each.
    assert muon.averages == 2 * whole.gradients + 3 * 8 * 4


def test_units_of_a_stage_are_its_layers_and_its_ends() -> None:
    model, first, middle = (
        deepseek(),
        *(Stage(index=index, count=3, layers=range(index, index + 1)) for index in (0, 1)),
    )
    whole = state_of_rank(model, Layout(pp=3), 0, [first], kept=ADAMW).parameters // 4
    embedding = model.vocab_size * model.hidden_size
    layer = whole - embedding
    assert units_of(model, Layout(pp=3, dp_shard=2), first) == Units(
        roots=embedding, layer=layer, call=layer, whole=whole, divided=whole
    )
    apart = units_of(model, Layout(pp=3, dp_shard=2, ep=2), middle)
    together = units_of(model, Layout(pp=3, dp_shard=2), middle)
    # Each rank has half of the experts, which no other one shares.
    assert together.whole > apart.whole == apart.layer > apart.call
    assert apart.divided < apart.whole
    assert units_of(model, Layout(pp=3), middle).divided == 0


def test_memory_falls_with_each_axis_that_shards() -> None:
    model = deepseek(multi_token_prediction={})
    sizes = {
        layout: state_of_rank(model, layout, 0, kept=ADAMW).total
        for layout in (Layout(), Layout(dp_shard=2), Layout(dp_shard=4), Layout(tp=2), Layout(tp=4), Layout(tp=4, ep=4))
    }
    assert sizes[Layout()] > sizes[Layout(dp_shard=2)] > sizes[Layout(dp_shard=4)]
    assert sizes[Layout()] > sizes[Layout(tp=2)] > sizes[Layout(tp=4)]


def test_stacks_of_too_few_experts_are_sharded_along_their_rows() -> None:
    assert [sharded_dim((8, 16, 32), shards) for shards in (4, 8, 16, 3)] == [0, 0, 1, 0]
    assert sharded_dim((3, 16), 8) == 0


def test_buckets_hold_what_fits() -> None:
    assert buckets([], 10) == []
    assert buckets([4, 6, 1, 20, 3], 10) == [range(2), range(2, 3), range(3, 4), range(4, 5)]
    assert buckets([0, 0], 10) == [range(2)]
