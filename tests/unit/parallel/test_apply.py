"""A model laid out on one rank: initial values, plain names, and that recomputation changes nothing."""

import pytest
import torch
from torch import Tensor

from firstlight.config.model import ModelConfig
from firstlight.config.recompute import FullRecompute, NoRecompute
from firstlight.layout.mesh import Layout
from firstlight.models.decoder import Decoder
from firstlight.models.initialization import initial_slice
from firstlight.parallel.apply import Keeping, buffer_names, build_parallel, parameter_names, routers
from tests.unit.models.tiny_model import deepseek, llama, meta_model, random_tokens, randomise

CONFIG = deepseek(multi_token_prediction={}, initializer_range=0.05)
ALONE = Layout(dp_replicate=1, dp_shard=1)


def built(config: ModelConfig = CONFIG, *, recompute: str = "none", seed: int = 3) -> Decoder:
    keeping = Keeping(recompute=FullRecompute() if recompute == "full" else NoRecompute())
    (model,) = build_parallel(config, ALONE, keeping, device=torch.device("cpu"), seed=seed).stages
    return model


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_initial_values_follow_from_plain_names(recompute: str) -> None:
    model = built(recompute=recompute)
    assert set(parameter_names(model)) == set(dict(meta_model(CONFIG).named_parameters()))
    for name, parameter in parameter_names(model).items():
        expected = initial_slice(name, parameter.shape, slice(None), std=0.05, seed=3)
        assert torch.equal(parameter, expected), name
    assert set(buffer_names(model)) == set(dict(meta_model(CONFIG).named_buffers()))
    assert not any(buffer.any() for buffer in buffer_names(model).values())


def test_seed_changes_every_matrix() -> None:
    first, second = (parameter_names(built(seed=seed)) for seed in (3, 4))
    for name, parameter in first.items():
        assert torch.equal(parameter, second[name]) == (parameter.ndim == 1), name


def test_tied_embedding_is_one_tensor() -> None:
    # Materialising a model from the meta device can part what was one.
    model = built(llama(tie_word_embeddings=True))
    assert model.head.weight is model.embedding.weight


def test_routers_are_named_after_their_layers() -> None:
    assert list(routers(built(recompute="full"))) == ["layers.1", "layers.2", "mtp.0.block"]


def loss_and_gradients(recompute: str) -> tuple[Tensor, dict[str, Tensor]]:
    model = built(recompute=recompute)
    randomise(model, seed=0)
    tokens = random_tokens(2, 13)
    sums = model(tokens[:, :-1], tokens[:, 1:], torch.ones(2, 12))
    loss = sums.lm + sums.mtp.sum() + sums.balance
    loss.backward()
    return loss, {name: p.grad for name, p in parameter_names(model).items() if p.grad is not None}


def test_recomputation_changes_no_bit() -> None:
    loss, gradients = loss_and_gradients("none")
    again, recomputed = loss_and_gradients("full")
    assert torch.equal(loss, again)
    assert gradients.keys() == recomputed.keys() == parameter_names(built()).keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, recomputed[name]), name
