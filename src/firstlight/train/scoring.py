"""What a trained model makes of given tokens: how likely a continuation is, and how it goes on by itself.

Shapes: b rows, s positions, v vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from firstlight.models.decoder import Decoder

Tokens = Sequence[int]


@dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Of a continuation: the natural logarithm of its probability, and whether each token was the likeliest."""

    log_probability: float
    is_greedy: bool


class Scorer:
    """Scores pairs of a context and its continuation with `model`, `batch_size` at once.

    What is longer than `sequence_length` loses the begin of its context.
    """

    def __init__(self, model: Decoder, *, sequence_length: int, batch_size: int) -> None:
        self.sequence_length = sequence_length
        self._model = model
        self._batch_size = batch_size
        self._device = next(model.parameters()).device

    @torch.no_grad()
    def score(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[Likelihood]:
        """One likelihood for each pair. Neither part of a pair may be empty."""
        # Long rows first: rows of one batch are padded to the longest of them.
        order = sorted(range(len(pairs)), key=lambda index: -sum(map(len, pairs[index])))
        found: dict[int, Likelihood] = {}
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            found |= dict(zip(chosen, self._score([pairs[index] for index in chosen]), strict=True))
        return [found[index] for index in range(len(pairs))]

    @torch.no_grad()
    def greedy(self, context: Tokens, *, most: int) -> list[int]:
        """Up to `most` likeliest tokens after `context`, one at a time."""
        tokens = list(context)
        for _ in range(most):
            window = torch.tensor([tokens[-self.sequence_length :]], device=self._device)
            tokens.append(int(self._model.logits(window)[0, -1].argmax()))
        return tokens[len(context) :]

    def _score(self, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[Likelihood]:
        rows = [[*context, *continuation][-self.sequence_length - 1 :] for context, continuation in pairs]
        longest = max(map(len, rows)) - 1
        # Padding stands behind a row, where no position of it looks.
        inputs_bs = torch.tensor([row[:-1] + [0] * (longest - len(row) + 1) for row in rows], device=self._device)
        logits_bsv = self._model.logits(inputs_bs)
        likelihoods = []
        for index, (row, (_, continuation)) in enumerate(zip(rows, pairs, strict=True)):
            end, count = len(row) - 1, min(len(continuation), len(row) - 1)
            logits_sv = logits_bsv[index, end - count : end].float()
            targets_s = torch.tensor(row[-count:], device=self._device)
            chosen_s = logits_sv.log_softmax(-1).gather(1, targets_s[:, None])
            likelihoods.append(
                Likelihood(
                    log_probability=float(chosen_s.double().sum()),
                    is_greedy=bool((logits_sv.argmax(-1) == targets_s).all()),
                )
            )
        return likelihoods
