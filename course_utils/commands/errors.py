"""The two ways in which a command ends badly; `course` prints either as one line."""


class BadArgumentError(ValueError):
    """What was typed makes no sense; the message names it and the remedy. Exit code 2."""


class CommandError(RuntimeError):
    """The command failed; the message names the cause and the remedy. Exit code 1."""
