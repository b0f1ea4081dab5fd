"""What a command whose module holds `Options` and `run` gives back."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """text: to print.  code: the exit code."""

    text: str
    code: int = 0
