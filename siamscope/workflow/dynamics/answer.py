"""What a command of `siamscope dynamics` gives back."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """text: to print.  code: the exit code."""

    text: str
    code: int = 0
