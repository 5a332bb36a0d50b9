"""Errors that are the user's to mend: the command line prints them without a traceback."""


class UserError(ValueError):
    """Bad input at the front door: the message says what was given, what is allowed, and how to mend it."""
