"""The one exception of this command."""


class SweepError(ValueError):
    """A sweep that cannot be made; the message says what to do."""
