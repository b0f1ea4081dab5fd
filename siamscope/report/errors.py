"""The one exception of this room."""


class ReportError(ValueError):
    """A report cannot be written: the message says what is wrong, where, and what to do."""
