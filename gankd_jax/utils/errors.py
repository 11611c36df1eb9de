"""The exception whose text is written for the user, and what its text is made of."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake that the user can correct.

    Its text is one line that says what is wrong and what to do about it; the command line prints it
    and exits with status 2.
    """


def suggest(name: str, names: Iterable[str]) -> str:
    """Returns a question that names the most similar of some names; empty if none is similar."""
    similar = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {similar[0]}?" if similar else ""
