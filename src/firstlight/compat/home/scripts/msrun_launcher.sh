#!/bin/bash
# Of the name and the arguments of MindFormers' script: `firstlight mindformers launch` does it.
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
exec python -m firstlight mindformers launch --home "$home" --log-suffix "${MF_LOG_SUFFIX:-}" -- "$@"
