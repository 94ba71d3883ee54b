"""Text that the model writes in the middle of its training, in whatever layout: all ranks evaluate, token by token."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch

from firstlight.base.errors import InputError
from firstlight.base.peers import Peers
from firstlight.base.report import EvalReport
from firstlight.config.schema import RunConfig
from firstlight.config.timeline import Timeline, sequence_lengths
from firstlight.data.stream import Batch
from firstlight.data.tokenizer import end_of_document_id, load_tokenizer
from firstlight.models.decoder import Decoder
from firstlight.parallel.engine import Engine
from firstlight.parallel.likeliest import likeliest_noted
from firstlight.train.sampling import Sampling, choose

Tokens = list[int]


@dataclass(frozen=True, kw_only=True)
class SamplePlan:
    """When and what: the tokens of each prompt, at most `rows` of them at once; every rank is given the same ones.

    `every_steps` 0 is only after the last step. A pipeline needs `rows` as in training; the rest is filled up.
    """

    every_steps: int
    sampling: Sampling
    prompts: Sequence[Tokens]
    end: int
    """The token that ends a document."""
    rows: int
    timeline: Timeline


@dataclass(frozen=True, kw_only=True)
class Writing:
    """This rank's part: whether it is the one of those that know the same that tells the others; what is done with the
    texts, as tokens; and who is told that it takes its time."""

    peers: Peers
    tells: bool
    keep: Callable[[int, Sequence[Tokens]], None]
    phase: Callable[[str], AbstractContextManager[None]]


class SampleWriter:
    """Writes a text for each prompt; see `train.evaluate.Evaluation`."""

    def __init__(self, engine: Engine, stages: Sequence[Decoder], plan: SamplePlan, mine: Writing) -> None:
        self._engine = engine
        self._stages = stages
        self._plan = plan
        self._mine = mine

    def due(self, step: int) -> bool:
        """Whether to write after `step`."""
        every = self._plan.every_steps
        return step > 0 and (step == self._plan.timeline.steps or (every > 0 and step % every == 0))

    def run(self, step: int) -> list[EvalReport]:
        """Write; there is nothing to report. Collective."""
        texts: list[Tokens] = []
        with self._mine.phase("samples"):
            for start in range(0, len(self._plan.prompts), self._plan.rows):
                texts += self._written(self._plan.prompts[start : start + self._plan.rows], step)
            self._mine.keep(step, texts)
        return []

    def _written(self, prompts: Sequence[Tokens], step: int) -> list[Tokens]:
        """Each prompt and what follows it, up to the end of its document."""
        sampling = self._plan.sampling
        texts = [list(prompt) for prompt in prompts]
        generators = [torch.Generator().manual_seed(sampling.seed) for _ in texts]
        open_rows = set(range(len(texts)))
        for _ in range(sampling.max_new_tokens):
            likeliest = self._likeliest(texts, open_rows, step)
            for row in sorted(open_rows):
                token = self._chosen(likeliest[row], generators[row])
                if token == self._plan.end:
                    open_rows.discard(row)
                else:
                    texts[row].append(token)
            if not open_rows:
                break
        return texts

    def _chosen(self, likeliest: torch.Tensor, generator: torch.Generator) -> int:
        scores, ids = likeliest[0].float(), likeliest[1].long()
        # a model in ruins has nothing to say, and that must not end the run
        return choose(scores, ids, self._plan.sampling, generator) if scores.isfinite().all() else self._plan.end

    def _likeliest(self, texts: Sequence[Tokens], open_rows: set[int], step: int) -> torch.Tensor:
        """Scores and ids of the likeliest next tokens of each text, [rows, 2, k], the same on every rank."""
        now = self._plan.timeline.at(max(0, step - 1))
        width = now.sequence_length
        tokens = np.zeros((self._plan.rows, width), np.int32)
        mask = np.zeros(tokens.shape, np.float32)
        for row, text in enumerate(texts):
            window = text[-width:]
            tokens[row, : len(window)] = window
            mask[row, len(window) - 1] = row in open_rows
        batch = Batch(
            tokens=tokens, labels=tokens, loss_mask=mask, begins=None, samples=self._plan.rows, phase=now.phase
        )
        count = min(self._plan.sampling.num_choices, self._stages[0].config.vocab_size)
        known = torch.zeros(self._plan.rows, 2, count, dtype=torch.float64)
        with likeliest_noted(self._stages, count) as found:
            self._engine.evaluate(batch)
        for row, (scores, ids) in found.items() if self._mine.tells else ():
            known[row] = torch.stack([scores.double(), ids.double()])
        summed = self._mine.peers.sum(known.flatten().tolist())
        return torch.tensor(summed, dtype=torch.float64).view(known.shape)


def prompt_tokens(config: RunConfig) -> list[Tokens]:
    """The tokens of each prompt of `monitor.samples`; none without. Raises InputError when one has no room."""
    if config.monitor.samples is None:
        return []
    tokenizer = load_tokenizer(config.data.tokenizer)
    end = end_of_document_id(tokenizer, config.data.tokenizer)
    most = min(sequence_lengths(config).values())
    found = []
    for number, prompt in enumerate(config.monitor.samples.prompts):
        # In the training data a document begins behind the end of another.
        tokens = list(tokenizer.encode(prompt, add_special_tokens=False).ids) or [end]
        if len(tokens) > most:
            raise InputError(
                f"monitor.samples.prompts.{number} has {len(tokens)} tokens, and the model is trained on {most}; "
                "use a shorter one"
            )
        found.append(tokens)
    return found
