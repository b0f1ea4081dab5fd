"""Published claims as experiments with an expected outcome: one file a paper. `siamscope reproduce` runs them.

Nothing is trained on import; torch is loaded only by what needs it.
"""

from siamscope.claims.base import Claim, ClaimError, Expected, Published, Verdict, judge

__all__ = ["Claim", "ClaimError", "Expected", "Published", "Verdict", "judge"]
