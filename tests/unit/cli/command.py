"""The command line in this process, as `main` runs it: what it prints and the code that it exits with."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from firstlight.base.log import get_logger
from firstlight.cli.main import main


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How the command ended."""

    exit_code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The one error message, without its `error: `; there must be one, at the end of stderr, and no other."""
        assert self.err.count("error: ") == 1, self.err
        assert "Traceback" not in self.err
        return self.err.partition("error: ")[2].rstrip("\n")


def ask(folder: Path, *arguments: str) -> Answer:
    """Run `firstlight ARGUMENTS` in `folder`. An exception that is not turned into a message is raised."""
    out, err = io.StringIO(), io.StringIO()
    exit_code = 0
    with (
        _left_as_it_was(),
        contextlib.chdir(folder),
        patch.object(sys, "argv", ["firstlight", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as exit_:
            exit_code = exit_.code if isinstance(exit_.code, int) else int(bool(exit_.code))
    return Answer(exit_code=exit_code, out=out.getvalue(), err=err.getvalue())


@contextlib.contextmanager
def _left_as_it_was() -> Iterator[None]:
    """A command sets up its logger and a variable or two; other tests of this process want theirs."""
    logger = get_logger()
    handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level
    with patch.dict(os.environ, {"COLUMNS": "200", "NO_COLOR": "1"}):
        try:
            yield
        finally:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
