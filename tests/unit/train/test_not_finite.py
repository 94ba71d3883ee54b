"""After a step with numbers that are not finite, the line about it names rank, layer and samples."""

from pathlib import Path

import pytest
import torch

from firstlight.models.decoder import Decoder
from firstlight.observe.events import read_events
from tests.runs import TinyRun, make_tiny_run
from tests.unit.train.tiny import train_here


def skips(run: TinyRun) -> list[str]:
    return [event.text for event in read_events(run.output / "events.jsonl") if event.kind == "skip"]


def test_a_layer_that_gives_some_is_named_with_its_samples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a layer makes of a certain first token is not finite: that of the second row of the third step."""
    run = make_tiny_run(tmp_path)
    real = Decoder.forward
    rows: list[torch.Tensor] = []

    def forward(model: Decoder, tokens: torch.Tensor, *others: torch.Tensor, **named: bool) -> object:
        rows.append(tokens)
        is_bad = len(rows) > 5 and bool((tokens == rows[5]).all())  # two micro-batches a step

        def poison(_layer: torch.nn.Module, _arguments: object, output: tuple[torch.Tensor, ...]) -> object:
            return (output[0] * float("nan"), *output[1:]) if is_bad else output

        handle = model.layers["1"].register_forward_hook(poison, prepend=True)
        try:
            return real(model, tokens, *others, **named)
        finally:
            handle.remove()

    monkeypatch.setattr(Decoder, "forward", forward)
    assert train_here(run, "training.steps=3", "training.evaluate_samples=1").exit_code == 0
    source = "first in what layers.1 gives from samples 10 to 11, on rank(s) 0"
    assert f"step 3: gradient norm is nan, loss nan, {source}; not applied" in caplog.text
    assert skips(run) == [f"update left out: gradient norm nan, {source}"]


def test_a_gradient_that_nothing_explains_is_named_with_its_rank(tmp_path: Path) -> None:
    run = make_tiny_run(tmp_path)
    assert train_here(run, "resilience.inject=[{kind: not_finite, step: 2}]").exit_code == 0
    source = "which rank(s) 0 had in the gradient of embedding.weight; computed again, its rows give none"
    assert skips(run) == [f"update left out: gradient norm nan, {source}"]
