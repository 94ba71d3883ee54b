"""Hugging Face's Trainer on batches that lie in memory."""

import tempfile
import time
from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.train_peer import BETAS, LEARNING_RATE, MAX_GRAD_NORM, WEIGHT_DECAY, Steps


class StepClock(TrainerCallback):  # type: ignore[misc]  # the package is not installed where types are checked
    """Times steps from begin to end, and takes their losses from the log."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._begin = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Batches have been fetched."""
        self._begin = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The weights have been updated."""
        self._steps.add(time.perf_counter() - self._begin, float("nan"))

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, float], **_more: Any) -> None:
        """The log comes after the step's end."""
        if "loss" in logs and self._steps.losses:
            self._steps.losses[-1] = float(logs["loss"])


def train_with_trainer(model: nn.Module, data: list[tuple[Tensor, Tensor]], steps: Steps) -> Steps:
    """The Trainer with its defaults, but for what the other programs have too. Losses: of the first and last step."""
    samples = [
        {"input_ids": row, "labels": target, "shift_labels": target}
        for tokens, labels in data
        for row, target in zip(tokens, labels, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            use_cpu=True,
            per_device_train_batch_size=data[0][0].shape[0],
            max_steps=len(data),
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            adam_beta1=BETAS[0],
            adam_beta2=BETAS[1],
            weight_decay=WEIGHT_DECAY,
            max_grad_norm=MAX_GRAD_NORM,
            train_sampling_strategy="sequential",
            remove_unused_columns=False,
            logging_first_step=True,
            logging_steps=len(data),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(model=model, args=arguments, train_dataset=samples, callbacks=[StepClock(steps)]).train()
    return steps
