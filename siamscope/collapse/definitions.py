"""What every label-free score is: its formula, source, conventions, range, and how many samples it wants.

The keys of `DEFINITIONS` are the names of the scores everywhere: in JSON, in tables, as features of a forecast.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Needs = Literal["spectrum", "features", "views"]
Centring = Literal["centred", "uncentred", "none"]
Collapsed = Literal["high", "low", "either"]
Bounds: TypeAlias = Callable[[int, int], tuple[float, float]]


@dataclass(frozen=True)
class Definition:
    """One score.

    Attributes:
        title: for people.
        formula: in words and signs; sigma are singular values, lambda = sigma^2 / N, u unit rows.
        source: paper, and equation where there is one.
        needs: "spectrum" (of N x d features, in one pass), "features" (the rows again) or "views" (n, q, d).
        centring: of the spectrum it is computed from; "none" if it has none.
        row_norm: "option" if rows are divided by their norm only when asked for, "always" if by definition, "never".
        eps: what is added where, so that it can be compared with others' values; empty if nothing is.
        bounds: (n, d) -> least and largest value it can have; n is the number of images for views.
        collapsed: at which end a collapsed representation lies; "either" if the score does not tell.
        at_a_point: its value by convention if all rows are one point; None if it has none.
        advice: on the number of samples, and what it does not see.
        slow: not among the default scores.
    """

    title: str
    formula: str
    source: str
    needs: Needs
    centring: Centring
    row_norm: Literal["option", "always", "never"]
    bounds: Bounds
    collapsed: Collapsed
    at_a_point: float | None
    advice: str
    eps: str = ""
    slow: bool = False


ALIASES = {"auc": "auc_sigma", "erank": "effective_rank", "alpha": "alpha_req", "std": "embedding_std"}
"""Short names of scores, for people."""


def _area(n: int, d: int) -> tuple[float, float]:
    return (d + 1) / (2 * d), 1.0


def _rank(n: int, d: int) -> tuple[float, float]:
    return 1.0, float(min(n, d))


def _centred_rank(n: int, d: int) -> tuple[float, float]:
    return 1.0, float(max(min(n - 1, d), 1))


DEFINITIONS: dict[str, Definition] = {
    "auc_sigma": Definition(
        title="AUC of explained variance (sigma)",
        formula="mean over k = 1..d of (sigma_1 + .. + sigma_k) / (sigma_1 + .. + sigma_d)",
        source="Li, Efros & Pathak, ECCV 2022 (arXiv:2209.15007), eq. 2; their code sums singular values, not squares",
        needs="spectrum",
        centring="centred",
        row_norm="option",
        bounds=_area,
        collapsed="high",
        at_a_point=1.0,
        advice="too high with few samples: N >= 16 d for a bias below .01; compare at equal d, N and method only",
    ),
    "auc_lambda": Definition(
        title="AUC of explained variance (lambda)",
        formula="as auc_sigma, of the variances lambda = sigma^2 / N",
        source="what the name in Li et al. 2022 says, and their code does not do",
        needs="spectrum",
        centring="centred",
        row_norm="option",
        bounds=_area,
        collapsed="high",
        at_a_point=1.0,
        advice="as auc_sigma; not comparable with it",
    ),
    "effective_rank": Definition(
        title="Effective rank",
        formula="exp of the entropy (nats) of sigma / sum(sigma)",
        source="Roy & Vetterli, EUSIPCO 2007",
        needs="spectrum",
        centring="centred",
        row_norm="option",
        bounds=_centred_rank,
        collapsed="low",
        at_a_point=1.0,
        advice="too low with few samples: by 1 per cent at N = 10 d, by 7 at N = 2 d for equal directions",
    ),
    "rankme": Definition(
        title="RankMe",
        formula="exp(-sum p log p), p_k = sigma_k / sum(sigma) + eps, k = 1..min(N, d)",
        source="Garrido et al., ICML 2023 (arXiv:2210.02885)",
        needs="spectrum",
        centring="uncentred",
        row_norm="option",
        eps="outside the division, 1e-7 by default",
        bounds=_rank,
        collapsed="low",
        at_a_point=1.0,
        advice="25,600 samples in the paper; compare runs of one method only; a common offset lowers it, eps raises it",
    ),
    "alpha_req": Definition(
        title="alpha-ReQ",
        formula="-slope of log lambda_j on log j, least squares with weights 1/j, j from 11 to 100 (cut to d)",
        source="Agrawal et al., NeurIPS 2022",
        needs="spectrum",
        centring="centred",
        row_norm="option",
        bounds=lambda n, d: (0.0, math.inf),
        collapsed="high",
        at_a_point=None,
        advice="about 1 is held to be good; it depends on the range of j, and wants d >= 100 and N >= 16 d",
    ),
    "nesum": Definition(
        title="NESum",
        formula="sum(lambda) / lambda_1",
        source="He & Ozay, ICML 2022, definition 4.1",
        needs="spectrum",
        centring="centred",
        row_norm="option",
        bounds=_centred_rank,
        collapsed="low",
        at_a_point=1.0,
        advice="rests on one eigenvalue; its relation to accuracy is not monotone",
    ),
    "stable_rank": Definition(
        title="Stable rank",
        formula="||Z||_F^2 / ||Z||_2^2",
        source="Tsitsulin et al. 2023 (arXiv:2305.16562)",
        needs="spectrum",
        centring="uncentred",
        row_norm="option",
        bounds=_rank,
        collapsed="low",
        at_a_point=1.0,
        advice="a common offset brings it towards 1; centred it is NESum",
    ),
    "participation_ratio": Definition(
        title="Participation ratio",
        formula="(sum lambda)^2 / sum lambda^2",
        source="order-2 Hill number of the variances",
        needs="spectrum",
        centring="centred",
        row_norm="option",
        bounds=_centred_rank,
        collapsed="low",
        at_a_point=1.0,
        advice="too low with few samples: 1/PR + 1/N",
    ),
    "participation_ratio_corrected": Definition(
        title="Participation ratio, corrected for N",
        formula="1 / (1/PR - 1/N)",
        source="first-order correction of the naive ratio",
        needs="spectrum",
        centring="centred",
        row_norm="option",
        bounds=lambda n, d: (1.0, float(d)),
        collapsed="low",
        at_a_point=1.0,
        advice="an estimate of what many samples would give; it may pass d by chance",
    ),
    "pseudo_condition": Definition(
        title="Pseudo-condition number",
        formula="sigma_d / sigma_1",
        source="Tsitsulin et al. 2023 (arXiv:2305.16562)",
        needs="spectrum",
        centring="uncentred",
        row_norm="option",
        bounds=lambda n, d: (0.0, 1.0),
        collapsed="low",
        at_a_point=0.0,
        advice="one dead dimension makes it 0, and so does N < d; unstable, read others first",
    ),
    "self_cluster": Definition(
        title="SelfCluster",
        formula="(||U U^T||_F^2 - e) / (n^2 - e), e = n + n (n - 1) / d, U the unit rows",
        source="Tsitsulin et al. 2023 (arXiv:2305.16562)",
        needs="spectrum",
        centring="none",
        row_norm="always",
        bounds=lambda n, d: (-1 / max(n - 1, d - 1, 1), 1.0),
        collapsed="high",
        at_a_point=1.0,
        advice="not biased by N; a common offset raises it",
    ),
    "embedding_std": Definition(
        title="Std of unit rows, x sqrt(d)",
        formula="sqrt(d) times the mean over dimensions of the deviation (divisor N - 1) of the unit rows",
        source="Chen & He 2021 (arXiv:2011.10566), fig. 2",
        needs="spectrum",
        centring="none",
        row_norm="always",
        bounds=lambda n, d: (0.0, math.sqrt(n / (n - 1))),
        collapsed="low",
        at_a_point=0.0,
        advice="sees complete collapse only: a randomly turned line still reads .8",
    ),
    "coherence": Definition(
        title="Coherence",
        formula="n / r max_i ||u_i||^2, u_i the rows of the left singular vectors (n, r), r the rank",
        source="Tsitsulin et al. 2023 (arXiv:2305.16562), after Candes & Recht 2009",
        needs="features",
        centring="uncentred",
        row_norm="option",
        bounds=lambda n, d: (1.0, float(n)),
        collapsed="either",
        at_a_point=1.0,
        advice="rests on one row; the sign of its relation to accuracy changes; read others first",
    ),
    "uniformity": Definition(
        title="Uniformity",
        formula="log of the mean over i < j of exp(-2 ||x_i - x_j||^2), x the unit rows (of 4,096 rows at most)",
        source="Wang & Isola, ICML 2020 (arXiv:2005.10242)",
        needs="features",
        centring="none",
        row_norm="always",
        bounds=lambda n, d: (-8.0, 0.0),
        collapsed="high",
        at_a_point=0.0,
        advice="meant for embeddings; about -3.9 for directions spread evenly; hardly sees dimensional collapse",
    ),
    "twonn": Definition(
        title="Intrinsic dimension (TwoNN)",
        formula="N / sum log(r2 / r1), r1 and r2 the distances to the two nearest rows",
        source="Facco et al. 2017 (likelihood form)",
        needs="features",
        centring="none",
        row_norm="option",
        bounds=lambda n, d: (0.0, math.inf),
        collapsed="low",
        at_a_point=0.0,
        advice="too low in high dimension: a cube of 10 reads 8.7 with 5,000 rows; compare at equal N",
        slow=True,
    ),
    "clid_learnability": Definition(
        title="Cluster learnability (of CLID)",
        formula="accuracy of nearest neighbours in telling the clusters of a k-means of the features",
        source="Lu et al., TMLR (arXiv:2206.01251); their k and K are not known to us",
        needs="features",
        centring="none",
        row_norm="option",
        bounds=lambda n, d: (0.0, 1.0),
        collapsed="either",
        at_a_point=None,
        advice="compare at equal N, clusters and neighbours; meant to be read with the intrinsic dimension",
        slow=True,
    ),
    "lidar": Definition(
        title="LiDAR",
        formula="exp of the entropy of the eigenvalues of Sw^-1/2 Sb Sw^-1/2 (between and within images)",
        source="Thilak et al., ICLR 2024 (arXiv:2312.04000)",
        needs="views",
        centring="centred",
        row_norm="never",
        eps="1e-4 on the diagonal of Sw; none on the shares",
        bounds=_centred_rank,
        collapsed="low",
        at_a_point=1.0,
        advice="more images than dimensions, 10 or 50 views of each in the paper; depends on the features' scale",
        slow=True,
    ),
    "alignment": Definition(
        title="Alignment",
        formula="mean of ||x - y||^2 over pairs of views of one image, x and y unit rows",
        source="Wang & Isola, ICML 2020 (arXiv:2005.10242)",
        needs="views",
        centring="none",
        row_norm="always",
        bounds=lambda n, d: (0.0, 4.0),
        collapsed="either",
        at_a_point=0.0,
        advice="low means invariance or collapse: read it with a score of spread",
    ),
}
