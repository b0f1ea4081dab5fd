"""The one exception of this room."""


class CollapseError(ValueError):
    """Features or spectra that no score can be computed from; the message says what was wrong and what to do."""
