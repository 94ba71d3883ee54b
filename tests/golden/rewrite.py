"""Writes the golden files anew: `python -m tests.golden.rewrite`, from the repository's folder. Read the diff then."""

import sys

from tests.golden.resolved import EXAMPLES, golden_file, resolved


def main() -> None:
    """Write every file and name it."""
    for name in EXAMPLES:
        golden_file(name).write_text(resolved(name), encoding="utf-8")
        sys.stdout.write(f"{golden_file(name)}\n")


if __name__ == "__main__":
    main()
