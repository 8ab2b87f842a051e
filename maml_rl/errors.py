"""The one error that users see."""


class UserError(ValueError):
    """Something that the user gave cannot be used. The command line prints its text without a traceback."""
