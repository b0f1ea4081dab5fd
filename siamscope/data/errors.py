"""The one exception type of this room."""


class DataError(ValueError):
    """The data, or the way they were asked for, cannot be used. The message says what, where and what to do."""
