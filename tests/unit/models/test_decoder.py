"""The decoder: loss sums by hand, multi-token prediction by hand, and that no position sees what comes after it."""

from typing import Any

import pytest
import torch
from torch import Tensor

from firstlight.models.decoder import Decoder
from firstlight.models.places import places_of
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, filled, llama, of_family, random_tokens

CASES = {
    "deepseek": deepseek(multi_token_prediction={"num_layers": 2}),
    "deepseek_plain_query": deepseek(attention={"q_lora_rank": None}),
    "llama": llama(),
    "llama_tied": llama(tie_word_embeddings=True),
    **{family: of_family(family) for family in OTHER_FAMILIES},
}


def sample(length: int = 13) -> tuple[Tensor, Tensor]:
    """Tokens [2, length + 1] of which the last is only predicted, and a mask with holes [2, length]."""
    mask = torch.ones(2, length)
    mask[0, 4] = mask[0, 5] = mask[1, 0] = mask[1, -1] = 0
    return random_tokens(2, length + 1), mask


def cross_entropy(logits_bsv: Tensor, targets_bs: Tensor, mask_bs: Tensor) -> Tensor:
    chosen = logits_bsv.log_softmax(-1).gather(-1, targets_bs.unsqueeze(-1)).squeeze(-1)
    return -(chosen * mask_bs).sum()


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
def test_loss_is_the_sum_over_unmasked_targets(config: Any) -> None:
    model = filled(config, dtype=torch.float64)
    tokens, mask = sample()
    sums = model(tokens[:, :-1], tokens[:, 1:], mask)
    expected = cross_entropy(model.logits(tokens[:, :-1]), tokens[:, 1:], mask)
    torch.testing.assert_close(sums.lm, expected)


@pytest.mark.parametrize("depths", [1, 2])
def test_multi_token_prediction_by_hand(depths: int) -> None:
    # Equations 21 to 24: position i at depth k joins h_i of the depth before with token i + k, and predicts token
    # i + k + 1, whose place in the mask is i + k. The last k positions have nothing to predict.
    config = deepseek(multi_token_prediction={"num_layers": depths})
    model = filled(config, dtype=torch.float64)
    tokens, mask = sample()
    length = mask.shape[1]
    sums = model(tokens[:, :-1], tokens[:, 1:], mask)
    assert sums.mtp.shape == (depths,)

    rope = places_of(model.config.attention, tokens[:, :-1])
    hidden = model._trunk(tokens[:, :-1], rope)
    for depth in range(1, depths + 1):
        layer = model.mtp[depth - 1]
        rows, embedding = length - depth, model.embedding.weight
        expected = torch.zeros((), dtype=torch.float64)
        embedded = torch.stack([embedding[row[depth : depth + rows]] for row in tokens])
        joined = torch.cat((layer.embedding_norm(embedded), layer.hidden_norm(hidden[:, :rows])), dim=-1)
        short = places_of(config.attention, tokens[:, :rows])
        hidden = layer.output_norm(layer.block(joined @ layer.projection.weight.T, short)[0])
        log_probabilities = (hidden @ model.head.weight.T).log_softmax(-1)
        for row in range(2):
            for position in range(rows):
                if mask[row, position + depth]:
                    target = tokens[row, position + depth + 1]
                    expected = expected - log_probabilities[row, position, target]
        torch.testing.assert_close(sums.mtp[depth - 1], expected)
        torch.testing.assert_close(model.mtp_logits(tokens[:, :-1])[depth - 1].log_softmax(-1), log_probabilities)


def test_multi_token_prediction_teaches_trunk_embedding_and_head() -> None:
    model = filled(CASES["deepseek"], dtype=torch.float64)
    tokens, mask = sample()
    model(tokens[:, :-1], tokens[:, 1:], mask).mtp.sum().backward()
    for name in ("embedding.weight", "head.weight", "layers.0.attention.o_proj.weight", "mtp.0.projection.weight"):
        gradient = model.get_parameter(name).grad
        assert gradient is not None, name
        assert gradient.any(), name


def test_prediction_ahead_can_rest() -> None:
    model = filled(CASES["deepseek"], dtype=torch.float64)
    tokens, mask = sample()
    batch = (tokens[:, :-1], tokens[:, 1:], mask)
    full, resting = model(*batch), model(*batch, predicts_ahead=False)
    assert resting.mtp.shape == (0,)
    assert torch.equal(resting.lm, full.lm)
    assert full.load_me.shape == (4, 8)  # two mixture layers and two depths
    assert resting.load_me.shape == (2, 8)


def test_load_counts_every_choice() -> None:
    model = filled(CASES["deepseek"], dtype=torch.float64)
    tokens, mask = sample()
    assert model(tokens[:, :-1], tokens[:, 1:], mask).load_me.sum(-1).tolist() == [2 * 13 * 2] * 4


def test_balance_loss_adds_up_over_layers() -> None:
    model = filled(CASES["deepseek"], dtype=torch.float64)
    losses: list[Tensor] = []
    for module in model.modules():
        if type(module).__name__ == "TopKRouter":
            module.register_forward_hook(lambda _module, _inputs, routing: losses.append(routing.balance_loss))
    tokens, mask = sample()
    sums = model(tokens[:, :-1], tokens[:, 1:], mask)
    assert len(losses) == 4
    torch.testing.assert_close(sums.balance, sum(losses))


def test_masked_target_teaches_nothing() -> None:
    model, (tokens, mask) = filled(CASES["deepseek"], dtype=torch.float64), sample()
    changed = tokens[:, 1:].clone()
    changed[:, -1] = (changed[:, -1] + 1) % 96
    mask[:, -1] = 0  # the last label is never an input at a position whose target counts
    first, second = (model(tokens[:, :-1], labels, mask) for labels in (tokens[:, 1:], changed))
    torch.testing.assert_close(first.lm, second.lm, rtol=0, atol=0)
    torch.testing.assert_close(first.mtp, second.mtp, rtol=0, atol=0)


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
@pytest.mark.parametrize("position", [0, 7, 12])
def test_no_position_sees_what_comes_after(config: Any, position: int) -> None:
    model = filled(config, dtype=torch.float64)
    tokens = random_tokens(2, 13)
    changed = tokens.clone()
    changed[:, position] = (changed[:, position] + 5) % 96
    before, after = all_logits(model, tokens), all_logits(model, changed)
    for depth, (one, other) in enumerate(zip(before, after, strict=True)):
        # Depth k predicts from position i with tokens up to i + k.
        differs = (one - other).abs().amax((0, 2)) > 1e-9
        first = max(0, position - depth)
        assert not differs[:first].any(), depth
        assert differs[first:].all(), depth


def all_logits(model: Decoder, tokens: Tensor) -> list[Tensor]:
    """Of the next token, and of those after it."""
    with torch.no_grad():
        return [model.logits(tokens), *model.mtp_logits(tokens)]


def test_rows_do_not_see_each_other() -> None:
    model = filled(CASES["deepseek"], dtype=torch.float64)
    tokens = random_tokens(3, 13)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(tokens)[1:2], model.logits(tokens[1:2]))


def test_tied_head_is_the_embedding() -> None:
    model = filled(CASES["llama_tied"])
    assert model.head.weight is model.embedding.weight
    assert "head.weight" not in dict(model.named_parameters())
