"""Of the name and the flags of MindFormers' script: `firstlight mindformers run` does it."""

import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.argv[1:] = ["mindformers", "run", "--home", str(Path(__file__).resolve().parent), "--", *sys.argv[1:]]
    runpy.run_module("firstlight", run_name="__main__")
