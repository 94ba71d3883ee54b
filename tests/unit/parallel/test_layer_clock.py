"""The clock runs while a layer computes, and not while its weights are gathered."""

import pytest
import torch
from torch import nn

from firstlight.layout.mesh import Layout
from firstlight.parallel import layer_clock
from firstlight.parallel.apply import Keeping, build_parallel
from firstlight.parallel.layer_clock import LayerClock
from tests.unit.models.tiny_model import deepseek, random_tokens


class Time:
    """Passes only where a hook lets it."""

    def __init__(self) -> None:
        self.now = 0.0

    def passes(self, module: nn.Module, seconds: float) -> None:
        """Before each forward pass of `module`."""

        def wait(*_arguments: object) -> None:
            self.now += seconds

        module.register_forward_pre_hook(wait)


def test_what_comes_before_a_layer_does_not_count_and_what_is_in_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    monkeypatch.setattr(layer_clock, "mark", lambda _device: time.now)
    config = deepseek(multi_token_prediction={})
    (model,) = build_parallel(config, Layout(), Keeping(), device=torch.device("cpu"), seed=3).stages
    first, second, *_ = model.layers.values()
    time.passes(first, 100.0)  # as FSDP's hooks, it is there before the clock's
    clock = LayerClock(stages=[model], device=torch.device("cpu"))
    time.passes(next(module for module in second.modules() if isinstance(module, nn.Linear)), 2.0)
    tokens = random_tokens(1, 17)
    arguments = (tokens[:, :-1], tokens[:, 1:], torch.ones(1, 16))
    model(*arguments)
    assert clock.seconds() == 2.0
    model(*arguments)
    assert clock.seconds() == 4.0
    clock.forget()
    model(*arguments)
    assert clock.seconds() == 2.0
