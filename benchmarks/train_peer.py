"""Trains a model of a peer on given tokens and prints what each step took, as JSON. Runs in the peers' environment.

Knows nothing of Firstlight: the model comes as JSON in the names of its `model` section, tokens as an array in a file.
"""

import argparse
import json
import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path[:0] = [str(Path(__file__).parents[1])]

LEARNING_RATE = 3e-4
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.1
MAX_GRAD_NORM = 1.0
PACKAGES = {
    "transformers": ("transformers",),
    "trainer": ("transformers", "accelerate"),
    "litgpt": ("litgpt", "lightning"),
    "megatron": ("megatron-core",),
}


@dataclass
class Steps:
    """What has been measured so far."""

    seconds: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def add(self, seconds: float, loss: float) -> None:
        """A step that has ended now."""
        self.seconds.append(seconds)
        self.ends.append(time.time())
        self.losses.append(loss)


Batches = Iterator[tuple[Tensor, Tensor]]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def batches(path: Path) -> Batches:
    """Inputs and targets [batch, length], int64, for each step of the file's array [steps, batch, length + 1]."""
    for rows in torch.from_numpy(np.load(path).astype(np.int64)):
        yield rows[:, :-1].contiguous(), rows[:, 1:].contiguous()


def adamw(model: nn.Module) -> torch.optim.AdamW:
    """The fused kind, torch's fastest on the CPU."""
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=BETAS, weight_decay=WEIGHT_DECAY, fused=True)


def train_plain(model: nn.Module, loss_of: Loss, data: Batches) -> Steps:
    """The loop that a tutorial shows."""
    optimizer, steps = adamw(model), Steps()
    model.train()
    for tokens, labels in data:
        begin = time.perf_counter()
        loss = loss_of(model, tokens, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps.add(time.perf_counter() - begin, loss.item())
    return steps


def train_fabric(model: nn.Module, loss_of: Loss, data: Batches) -> Steps:
    """As litgpt's own pretraining does it, with Lightning's Fabric."""
    from lightning import Fabric

    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    model, optimizer, steps = fabric.setup(model), adamw(model), Steps()
    optimizer = fabric.setup_optimizers(optimizer)
    model.train()
    for tokens, labels in data:
        begin = time.perf_counter()
        loss = loss_of(model, tokens, labels)
        fabric.backward(loss)
        fabric.clip_gradients(model, optimizer, max_norm=MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad()
        steps.add(time.perf_counter() - begin, loss.item())
    return steps


def train(wanted: argparse.Namespace) -> tuple[nn.Module, Steps]:
    """The model after its steps."""
    from benchmarks import peer_models

    torch.manual_seed(0)
    model_section, data = json.loads(wanted.model), batches(wanted.tokens)
    if wanted.program in ("transformers", "trainer"):
        model = peer_models.transformers_model(model_section, recomputes=wanted.recompute)
        if wanted.program == "transformers":
            return model, train_plain(model, peer_models.transformers_loss, data)
        from benchmarks.peer_trainer import train_with_trainer

        return model, train_with_trainer(model, list(data), Steps())
    if wanted.recompute:
        sys.exit(f"recomputation is not written for {wanted.program}")
    if wanted.program == "litgpt":
        model = peer_models.litgpt_model(model_section)
        return model, train_fabric(model, peer_models.litgpt_loss, data)
    from benchmarks.peer_megatron import megatron_loss, megatron_model

    model = megatron_model(model_section)
    return model, train_plain(model, megatron_loss, data)


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", choices=tuple(PACKAGES), required=True)
    parser.add_argument("--model", required=True, help="a model section as JSON")
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--recompute", action="store_true")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    model, steps = train(wanted)
    figures: dict[str, Any] = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds": steps.seconds,
        "ends": steps.ends,
        "losses": [None if math.isnan(loss) else loss for loss in steps.losses],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {name: version(name) for name in ("torch", *PACKAGES[wanted.program])},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
