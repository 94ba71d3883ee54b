"""Of the name and the flags of MindFormers' script: `firstlight mindformers wikitext` does it."""

import runpy
import sys

if __name__ == "__main__":
    sys.argv[1:] = ["mindformers", "wikitext", "--", *sys.argv[1:]]
    runpy.run_module("firstlight", run_name="__main__")
