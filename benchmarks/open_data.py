"""Opens a run's training data as `firstlight train` does, and prints how long that took. Loads no torch."""

import sys
from pathlib import Path

from benchmarks.measured import Stopwatch
from firstlight.config.load import load
from firstlight.data.open import TrainingNeeds, open_training_data
from firstlight.data.tokenizer import check_vocabulary


def main() -> None:
    """Arguments: the YAML file, then overrides."""
    config = load(Path(sys.argv[1]), sys.argv[2:]).config
    needs = TrainingNeeds(
        num_samples=config.training.steps * 4, seed=config.training.seed, vocab_size=config.model.vocab_size
    )
    watch = Stopwatch()
    check_vocabulary(config.data.tokenizer, config.model.vocab_size)
    open_training_data(config.data, needs)
    watch.report()


if __name__ == "__main__":
    main()
