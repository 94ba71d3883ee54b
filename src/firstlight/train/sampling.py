"""How the next token of a text is chosen."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen: `temperature` 0 takes the likeliest; `top_k` leaves the k likeliest to chance."""

    max_new_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 50
    seed: int = 0

    @property
    def num_choices(self) -> int:
        """How many of the likeliest tokens may be chosen."""
        return 1 if self.temperature == 0 else self.top_k


def choose(scores: Tensor, ids: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """One of the likeliest tokens `ids`, by their scores in fp32."""
    if sampling.temperature == 0:
        return int(ids[0])
    probabilities = (scores / sampling.temperature).softmax(-1)
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])
