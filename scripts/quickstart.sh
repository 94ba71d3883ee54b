#!/usr/bin/env bash
# From the standard library's text to a trained, evaluated and exported model, on this machine.
# Run again, it keeps the data, resumes or finds the training finished, and renews the results.
# `scripts/quickstart.sh --fresh` starts over.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

firstlight=${FIRSTLIGHT:-.venv/bin/firstlight}
run=runs/quickstart
data=runs/quickstart-data
SECONDS=0

if [[ "${1:-}" == --fresh ]]; then
    rm -rf "$run" "$data"
fi

# Prints the command, then runs it.
step() {
    printf '\n$ firstlight'
    printf ' %q' "$@"
    printf '\n'
    "$firstlight" "$@"
}

if [[ -f $data/complete ]]; then
    echo "$data is complete: keeping the tokenizer and the data set"
else
    rm -rf "$data"
    mkdir -p "$data"

    # A byte-level BPE tokenizer, trained on Python's standard library.
    step tokenizer train --vocab-size 4096 --output "$data/tokenizer.json"

    # The same text as token ids, in the format that Megatron reads; one document in twenty is held out.
    step prepare --tokenizer "$data/tokenizer.json" --output-prefix "$data/stdlib" --held-out-fraction 0.05

    touch "$data/complete"
fi

# Trains, or goes on from the last checkpoint; a finished run says so and does nothing.
step train --config examples/quickstart.yaml

# The loss on text that the model has not seen.
step evaluate "$run"

# The model's own continuation of a prompt.
step generate "$run" --prompt "def "

# The weights in Hugging Face's layout, for other tools.
rm -rf "$run/export"
step export "$run" --output "$run/export"

# One page with the curves and facts of the run.
step report "$run"

printf '\nquickstart: %d min %d s in all\n' "$((SECONDS / 60))" "$((SECONDS % 60))"
