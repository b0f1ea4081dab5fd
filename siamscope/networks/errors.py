"""The one exception type of this room. Torch-free."""


class NetworkError(ValueError):
    """A network cannot be built, wrapped, converted, saved or loaded as asked; the message says why and what to do."""
