"""A run small enough for a test: text, tokenizer, data and a YAML file in a folder, and the command line on them.

A training run of four steps takes about 3 seconds, most of which is loading torch; two processes take 6.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import firstlight
from firstlight.data.prepare import PrepareRequest, prepare
from firstlight.data.tokenizer import train_tokenizer

SEQUENCE_LENGTH = 32
VOCAB_SIZE = 300
TIMEOUT_SECONDS = 300

TINY_YAML = """\
model:
  family: deepseek_v3
  vocab_size: 300
  hidden_size: 32
  num_hidden_layers: 2
  max_position_embeddings: 32
  attention:
    kind: mla
    num_attention_heads: 2
    q_lora_rank: 16
    kv_lora_rank: 16
    qk_nope_head_dim: 8
    qk_rope_head_dim: 8
    v_head_dim: 8
  feed_forward:
    kind: moe
    first_k_dense_replace: 1
    intermediate_size: 64
    moe_intermediate_size: 16
    n_routed_experts: 4
    router: {num_experts_per_tok: 2}
  multi_token_prediction: {num_layers: 1}
data:
  train:
    sources: [{path: data/tiny_text_document}]
    sequence_length: 32
  evaluate:
    - name: tiny
      path: data/tiny_heldout_text_document
  tokenizer: tokenizer.json
optimizer:
  type: adamw
  learning_rate: 1e-3
training:
  steps: 4
  global_batch_size: 4
  micro_batch_size: 2
  evaluate_samples: 8
  output_folder: out
checkpoint: {save_every_steps: 2, keep_last: 2}
monitor: {log_every_steps: 1, sinks: [console, jsonl], peak_flops_per_second: 1e12}
"""
"""A DeepSeek-V3 with one dense layer, one of experts and multi-token prediction; paths are relative to its folder."""


@dataclass(frozen=True, kw_only=True)
class TinyRun:
    """A folder with corpus.jsonl, tokenizer.json, data/tiny_*.bin and run.yaml; the run's output goes to out/."""

    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def checkpoints(self) -> Path:
        return self.output / "checkpoints"

    def firstlight(self, *arguments: str, timeout: float = TIMEOUT_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run `python -m firstlight ARGUMENTS` in the folder, with one thread; returns what it printed and its code."""
        return subprocess.run(
            command(*arguments),
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def train(self, *overrides: str, processes: int = 1) -> subprocess.CompletedProcess[str]:
        """Train run.yaml with `--set` of each of `overrides`, to its end."""
        return self.firstlight(*train_arguments(*overrides, processes=processes))

    def start_training(self, *overrides: str, processes: int = 1) -> subprocess.Popen[str]:
        """The same, but return at once; the caller waits for the process, or ends it."""
        return subprocess.Popen(
            command(*train_arguments(*overrides, processes=processes)),
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, or those of one kind ("step", "evaluation"); an unfinished one is left out."""
        file = self.output / "metrics.jsonl"
        whole = file.read_text().rpartition("\n")[0].splitlines() if file.exists() else []
        lines = [json.loads(line) for line in whole]
        return [line for line in lines if kind in (None, line["kind"])]


def make_tiny_run(folder: Path) -> TinyRun:
    """Fill `folder` with a corpus of made-up words, a tokenizer of 300 ids, data sets and run.yaml."""
    documents = tiny_documents()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    train_tokenizer(documents, VOCAB_SIZE).save(str(folder / "tokenizer.json"))
    prepare(
        PrepareRequest(
            inputs=(folder / "corpus.jsonl",),
            tokenizer=folder / "tokenizer.json",
            output_prefix=folder / "data" / "tiny",
            held_out_fraction=0.2,
        )
    )
    (folder / "run.yaml").write_text(TINY_YAML)
    return TinyRun(folder=folder)


def tiny_documents() -> list[str]:
    """Sixty documents of sixty words out of sixty."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghij", k=source.randint(2, 6))) for _ in range(60)]
    return [f"{number}: " + " ".join(source.choices(words, k=60)) for number in range(60)]


def train_arguments(*overrides: str, processes: int = 1) -> list[str]:
    """The `train` verb on run.yaml, with its flags."""
    arguments = ["train", "--config", "run.yaml"]
    for override in overrides:
        arguments += ["--set", override]
    return arguments if processes == 1 else [*arguments, "--nproc-per-node", str(processes)]


def command(*arguments: str) -> list[str]:
    """The command line as this interpreter runs it."""
    return [sys.executable, "-m", "firstlight", *arguments]


def environment() -> dict[str, str]:
    """This process's environment with one thread a process, and with the package that this process has imported."""
    package = Path(firstlight.__file__).parents[1]
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(package), "PYTHONUNBUFFERED": "1"}


def wait_until(is_so: Callable[[], bool], *, timeout: float = TIMEOUT_SECONDS) -> None:
    """Return once `is_so` says so; TimeoutError after `timeout` seconds."""
    end = time.monotonic() + timeout
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"not so within {timeout} seconds")
        time.sleep(0.01)
