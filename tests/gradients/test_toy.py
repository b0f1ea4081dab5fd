"""What the gradients do when they train: see `toy.py`. Two seconds a run, one seed here; thresholds from five seeds.

k-NN accuracy over five seeds, lowest to highest (`python benchmarks/toy.py --seeds 5`, torch 2.13 on a CPU), the
threshold and its margin to the worst seed. Before training: .374 to .412.

    momentum target     contrastive .945-.950 (.85: .095)   Barlow, A = I .937-.954 (.85: .087)
                        UniGrad .932-.947 (.85: .082)       VICReg, official .949-.963 (.80: .149)
                        asymmetric, DirectPred exact .800-.847 (.70: .100)
    detached target     Barlow, A = I .931-.945 (.85: .081)
    must not learn      no negative .376-.412 (at most .50: .088)
    (detached)          VICReg, unit length, centred .371-.419 (at most .50: .081)
                        positive similarity of both .998 and more (at least .99: .008)
    UniGrad, detached   F of the batch .957-.964, F of rho .99 .780-.825: apart by .13 or more (.10: .03)
    UniGrad, momentum   the same .943-.958 and .932-.947: apart by .026 at most (.04: .014)
    lambda / d          .05 .925-.947, .09 .932-.947, .19 .928-.951 (best less .05), 1.0 .063-.123 (at most .50)
    cosines of tangent negatives with UniGrad's, momentum, first step: contrastive .977-.984, asymmetric .944-.965,
                        Barlow .955-.974 (.92: .024), centred VICReg -.53 to -.40 (at most .3)
    last step           contrastive .899-.920 (.80: .099), asymmetric .981-.989 (.90: .081), Barlow .682-.710
                        (.55: .132), centred VICReg .02 to .07 (at most .3: .23)
"""

from dataclasses import replace
from functools import cache

import pytest
import toy


@cache
def knn(method: str, momentum: bool) -> float:
    return toy.run(method, momentum=momentum).knn


@pytest.mark.parametrize(
    ("method", "momentum", "least"),
    [
        ("contrastive", True, 0.85),
        ("barlow", True, 0.85),
        ("unigrad", True, 0.85),
        ("vicreg", True, 0.80),
        ("asymmetric", True, 0.70),
        ("barlow", False, 0.85),
    ],
)
def test_learns(method, momentum, least):
    assert knn(method, momentum) >= least


@pytest.mark.parametrize("method", ["none", "vicreg-centred"])
def test_collapses(method):
    """No negative, no momentum; and VICReg on unit vectors without its variance term: no better than at the start."""
    outcome = toy.run(method, momentum=False)
    assert outcome.knn <= 0.5
    assert outcome.similarity >= 0.99


def test_the_start_is_poor():
    start = toy.run("none", momentum=False, settings=replace(toy.Settings(), steps=0))
    assert 0.3 <= start.knn <= 0.5


def test_alignment_with_unigrad():
    """Cosines of tangent negatives with UniGrad's along its run with momentum (reference 4, row 22)."""
    found = toy.alignment(momentum=True, at=(0, 299))
    start, end = found[0]["negative"], found[299]["negative"]
    assert min(start[name] for name in ("contrastive", "asymmetric", "barlow")) >= 0.92
    assert end["contrastive"] >= 0.8 and end["asymmetric"] >= 0.9 and end["barlow"] >= 0.55
    assert max(start["vicreg-centred"], end["vicreg-centred"]) <= 0.3


def test_what_looks_like_a_gain_from_momentum_is_a_stale_correlation():
    """Without momentum F of the batch beats an F of the last hundred steps by .1; with momentum they differ little."""
    assert knn("unigrad-rho0", False) >= knn("unigrad", False) + 0.1
    assert abs(knn("unigrad-rho0", True) - knn("unigrad", True)) <= 0.04


def test_the_balance_counts_in_units_of_the_dimension():
    """lambda / d of .05 to .2 is within .05 of the best, and 1 fails (reference 4, row 24)."""
    found = {share: toy.run(toy.unigrad(0.99, share * toy.WIDTH), momentum=True).knn for share in (0.05, 0.19, 1.0)}
    best = max(*found.values(), knn("unigrad", True))
    assert min(found[0.05], found[0.19]) >= best - 0.05
    assert found[1.0] <= 0.5


def test_runs_repeat():
    short = replace(toy.Settings(), steps=5)
    assert toy.run("unigrad", momentum=True, settings=short) == toy.run("unigrad", momentum=True, settings=short)
