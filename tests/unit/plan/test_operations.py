"""Operations of layers against the counts of FLOPs that the runtime reports by."""

import pytest

from firstlight.config.model import ModelConfig
from firstlight.layout.counts import flops_by_part, flops_per_token
from firstlight.layout.mesh import Layout
from firstlight.layout.stages import whole_model
from firstlight.plan.operations import operations_of_ends, operations_of_layer
from firstlight.plan.work import Work
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, llama, of_family

MODELS: dict[str, ModelConfig] = {
    "deepseek": deepseek(multi_token_prediction={"num_layers": 2}),
    "deepseek_direct_query": deepseek(attention={"q_lora_rank": None}),
    "llama": llama(),
    **{family: of_family(family) for family in OTHER_FAMILIES},
}
LENGTH = 32
LAYOUTS = [Layout(), Layout(dp_shard=4, ep=4), Layout(tp=2), Layout(tp=2, ep=2), Layout(tp=2, etp=2), Layout(cp=2)]
CASES = [
    (name, layout)
    for name, model in MODELS.items()
    for layout in LAYOUTS
    if model.feed_forward.kind == "moe" or layout.ep * layout.etp == 1
]


def work(model: ModelConfig, layout: Layout) -> Work:
    return Work(model=model, layout=layout, sequence_length=LENGTH, micro_batch_size=2, micro_batches=1)


@pytest.mark.parametrize(("name", "layout"), CASES, ids=str)
def test_flops_of_a_layer_are_those_of_its_tokens(name: str, layout: Layout) -> None:
    """Over all ranks of a micro-batch. A forward pass is a third of what is counted for both."""
    model = MODELS[name]
    parts = flops_by_part(model, LENGTH)
    for layer, expected in enumerate(parts.layers):
        found = sum(one.flops for one in operations_of_layer(work(model, layout), layer))
        # A rank works on its part of the tokens of a tensor and context group, or of all of an expert.
        assert found * layout.tp * layout.cp * 3 == pytest.approx(expected * 2 * LENGTH), layer


@pytest.mark.parametrize("name", MODELS)
def test_flops_of_all_operations_are_those_of_the_model(name: str) -> None:
    model = MODELS[name]
    here, stage = work(model, Layout()), whole_model(model)
    layers = range(model.num_hidden_layers + model.num_mtp_layers)
    operations = [one for layer in layers for one in operations_of_layer(here, layer)]
    operations += operations_of_ends(here, stage)
    found = 3 * sum(one.flops for one in operations) / (2 * LENGTH)
    assert found == pytest.approx(flops_per_token(model, LENGTH))


def test_full_attention_is_counted_twice_as_much_as_causal() -> None:
    model = llama()
    both = [flops_per_token(model, LENGTH, convention) for convention in ("causal", "full")]
    scores = model.num_hidden_layers * 6 * LENGTH * 4 * 16
    assert both[1] - both[0] == pytest.approx(scores / 2)
