"""The errors that Millwright raises, and the exit code that each one ends a command with.

A message names the thing at fault, the place where it stands and the way out, because it is all
that the reader of a terminal gets to see: no traceback is shown for an error of this tree.
"""


class MillwrightError(Exception):
    """The root of the tree. Catch it to catch everything that is ours."""

    exit_code = 1


class InputError(MillwrightError):
    """What came from outside is wrong: a file, a table, an option. Nothing was changed."""

    exit_code = 2


class ConfigurationError(InputError):
    """A configuration file does not say what it must."""


class DataError(InputError):
    """A table cannot be read as what the fleet file says that it is."""


class BusyError(MillwrightError):
    """Another process holds what this one needs."""


class ReleaseError(MillwrightError):
    """A release folder is not what its manifest says, or cannot be written."""


def first_line(err: BaseException) -> str:
    """What happened, without the pages that some libraries add to it."""
    return str(err).strip().partition("\n")[0] or type(err).__name__
