"""The one exception type of this room."""


class ViewError(ValueError):
    """A view was asked for that cannot be made: the message says what was wrong, where, and what to do."""
