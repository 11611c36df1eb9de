"""The exception whose text is written for the user."""


class UserError(Exception):
    """A mistake that the user can correct.

    Its text is one line that says what is wrong and what to do about it; the command line prints it
    and exits with status 2.
    """
