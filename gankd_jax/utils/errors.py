"""The one exception a person is meant to read."""


class UserError(Exception):
    """A mistake that the caller can mend.

    Its text is one line that says what is wrong and what to do about it; the command line prints it
    and exits with status 2.
    """
