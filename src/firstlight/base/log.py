"""One logger for the package: facts on stderr, from rank 0 unless a rank has something of its own to say."""

import logging
import sys

LOGGER_NAME = "firstlight"


def set_up(*, rank: int = 0, is_verbose: bool = False) -> None:
    """Send the package's log lines to stderr; ranks above 0 report warnings only, with their rank."""
    logger = logging.getLogger(LOGGER_NAME)
    handler = logging.StreamHandler(sys.stderr)
    prefix = "" if rank == 0 else f"[rank {rank}] "
    handler.setFormatter(logging.Formatter(prefix + "%(message)s"))
    logger.handlers[:] = [handler]
    logger.propagate = False
    quiet = logging.DEBUG if is_verbose else logging.INFO
    logger.setLevel(quiet if rank == 0 else logging.WARNING)


def get_logger() -> logging.Logger:
    """The package's logger."""
    return logging.getLogger(LOGGER_NAME)
