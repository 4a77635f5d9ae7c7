"""The one exception that a person is meant to read."""


class UserError(Exception):
    """A mistake that the person at the terminal can mend.

    The message says what was wrong, what was received, what was wanted and what to do. The command line prints it
    and exits with status 2; there is no traceback.
    """
