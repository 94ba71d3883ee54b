"""Documents packed into one sequence are trained on as each by itself, in every kind of attention."""

import pytest
import torch
from torch import Tensor

from firstlight.config.model import ModelConfig
from firstlight.models.decoder import Decoder
from firstlight.models.places import mask_ahead
from tests.unit.models.tiny_model import OTHER_FAMILIES, deepseek, filled, llama, of_family

LENGTHS = (1, 9, 4, 190, 13)
CONFIGS: dict[str, ModelConfig] = {
    **{name: of_family(name) for name in OTHER_FAMILIES},
    "llama": llama(),
    "deepseek_mtp": deepseek(multi_token_prediction={"num_layers": 2}),
}


def packed() -> tuple[Tensor, Tensor]:
    """One sequence, and where its documents begin."""
    tokens = torch.randint(0, 96, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(3))
    begins = torch.zeros(1, sum(LENGTHS), dtype=torch.bool)
    begins[0, torch.tensor(LENGTHS).cumsum(0)[:-1]] = True
    return tokens, begins


def model(config: ModelConfig) -> Decoder:
    return filled(config, dtype=torch.float64)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_logits_are_those_of_each_document_alone(config: ModelConfig) -> None:
    decoder, (tokens, begins) = model(config), packed()
    with torch.no_grad():
        together = decoder.logits(tokens, begins).split(LENGTHS, dim=1)
        alone = [decoder.logits(part) for part in tokens.split(LENGTHS, dim=1)]
        joined = decoder.logits(tokens)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert (joined - torch.cat(together, dim=1)).abs().max() > 1e-3


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_losses_and_gradients_are_the_sums_over_documents(config: ModelConfig) -> None:
    decoder, (tokens, begins) = model(config), packed()
    mask = torch.ones(1, tokens.shape[1] - 1, dtype=torch.float64)
    mask[begins[:, 1:]] = 0
    sums = decoder(tokens[:, :-1], tokens[:, 1:], mask, begins[:, :-1])
    (sums.lm + sums.mtp.sum()).backward()
    gradients = {name: one.grad.clone() for name, one in decoder.named_parameters() if one.grad is not None}
    decoder.zero_grad()
    parts = [part for part in tokens.split(LENGTHS, dim=1) if part.shape[1] > 1]
    for part in parts:
        alone = decoder(part[:, :-1], part[:, 1:], torch.ones(1, part.shape[1] - 1, dtype=torch.float64))
        (alone.lm + alone.mtp.sum()).backward()
    for name, parameter in decoder.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-11, msg=name)


def test_no_target_lies_in_another_document() -> None:
    begins = torch.tensor([[False, False, True, False, False, False, True, False]])
    mask = torch.tensor([[1, 0, 1, 1, 1, 0, 1, 1]])  # what follows is a document's first token: left out
    assert mask_ahead(mask, begins, 0).tolist() == mask.tolist()
    # Depth 1 predicts token i + 2 from i: of one document are 0..1, 2..5 and 6..8.
    assert mask_ahead(mask, begins, 1).tolist() == [[0, 0, 1, 1, 0, 0, 1, 0]]
    assert mask_ahead(mask, begins, 2).tolist() == [[0, 0, 1, 0, 0, 0, 0, 0]]
    assert mask_ahead(mask, None, 1).tolist() == [[0, 1, 1, 1, 0, 1, 1, 0]]
