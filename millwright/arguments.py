"""Arguments that several commands take."""

import argparse
import re

FLEET = "simulated"  # whose work a command does if no other is named


def version(text: str) -> int:
    """The number of a release that is written like v3, or 3.

    Raises:
        ArgumentTypeError: it is not written so.
    """
    if not re.fullmatch(r"v?[1-9][0-9]{0,8}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is no release; write it like v3")
    return int(text.removeprefix("v"))
