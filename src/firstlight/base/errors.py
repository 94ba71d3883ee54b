"""The error family. Each error says what, the value, where it came from and what would do."""


class FirstlightError(Exception):
    """Something failed while running; the process ends with `exit_code`."""

    exit_code = 1


class InputError(FirstlightError):
    """The user's input (configuration, file, flag) cannot be used as it is."""

    exit_code = 2


class NoCheckpointError(FirstlightError):
    """Checkpoints exist, but none of them can be loaded."""

    exit_code = 3


class FolderInUseError(FirstlightError):
    """Another process that is alive writes to this output folder, or has taken it over."""

    exit_code = 4


EXIT_PREEMPTED = 75
"""Exit code of a run that was asked to stop, saved its state and can be started again."""
