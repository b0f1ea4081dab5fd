"""The matrix of a predictor set from statistics, against closed forms; the spectral norm without eigenvalues."""

import numpy as np
import pytest
import torch
from predictor_cases import relative, second_moment, set_by, shapes, views

from siamscope.networks import set_predictor as rules
from siamscope.networks.predictors import LinearPredictor, SetPredictor


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_directpred_is_the_papers_formula():
    for n, d in shapes(50):
        z = views(n, d)
        f = second_moment(z).numpy()
        s, u = np.linalg.eigh(f)
        s = np.clip(s, 0, None)
        for eps, shift in ((0.0, 0.0), (0.3, 0.0), (0.1, 0.05), (0.1, -0.05)):
            for rule, base, boost in (("paper", s, eps * s[-1]), ("code", s / s[-1], eps)):
                root = np.sqrt(np.clip(base - shift, 0, None))
                w = set_by(z, eps=eps, shift=shift, rule=rule).matrix.numpy()
                # the root of an eigenvalue that is zero up to rounding has the root of that rounding
                assert np.linalg.norm(w - (u * (root + boost)) @ u.T) < 1e-7 * np.linalg.norm(root)
                assert (w == w.T).all()


def test_directpred_eigenvalues_of_a_full_rank_f():
    z = views(200, 20)
    f = second_moment(z)
    for eps, shift in ((0.0, 0.0), (0.3, 0.0), (0.1, -0.05)):
        s, u = torch.linalg.eigh(f)
        for rule, base, boost in (("paper", s, eps * s[-1]), ("code", s / s[-1], eps)):
            root = (base - shift).sqrt()
            w = set_by(z, eps=eps, shift=shift, rule=rule).matrix
            assert relative(w, (u * (root + boost)) @ u.T) < 1e-12
    assert relative(set_by(z, eps=0.3, rule="paper").matrix, set_by(z, eps=0.3, rule="code").matrix) > 0.01


def test_rules_commute_with_f():
    for n, d in shapes(50, 1):
        z = views(n, d)
        f = second_moment(z)
        for kind in ("directpred", "directset", "directcopy"):
            w = set_by(z, kind).matrix
            assert (f @ w - w @ f).norm() < 1e-10 * f.norm() * w.norm()
            assert torch.linalg.eigvalsh(w)[0] > -1e-12
        w = LinearPredictor(d).double().matrix
        assert (f @ w - w @ f).norm() > 1e-3 * f.norm() * w.norm()


def test_code_rule_is_directset_of_a_half():
    for n, d in shapes(50, 2):
        z = views(n, d)
        scale = torch.linalg.matrix_norm(second_moment(z), 2).sqrt()
        a = set_by(z, "directpred", rule="code", eps=0.2).matrix
        b = set_by(z, "directset", power=0.5, eps=0.2).matrix
        assert relative(b, a) < 1e-12
        if n > d:
            assert relative(b * scale, set_by(z, "directpred", rule="paper", eps=0.2).matrix) > 1e-4


@pytest.mark.parametrize("norm", ["spectral", "frobenius"])
def test_powers_by_product_are_powers_by_eigenvalues(norm):
    for n, d in shapes(10, 3):
        z = views(n, d)
        f = second_moment(z)
        for power in (1, 2, 3):
            product = set_by(z, "directset", power=float(power), eps=0.3, norm=norm).matrix
            assert relative(product, rules.directset(f, power=power, eps=0.3, norm=norm)) < 1e-6
            raised = torch.linalg.matrix_power(f, power)
            size = torch.linalg.matrix_norm(raised, 2 if norm == "spectral" else "fro")
            assert relative(product, raised / size + 0.3 * torch.eye(d, dtype=torch.float64)) < 1e-6
        copied = set_by(z, "directcopy", eps=0.3, norm=norm).matrix
        assert torch.equal(copied, set_by(z, "directset", power=1.0, eps=0.3, norm=norm).matrix)
        assert relative(copied, set_by(z, "directset", power=2.0, eps=0.3, norm=norm).matrix) > 0.01


@pytest.mark.parametrize("norm", ["spectral", "frobenius"])
def test_directcopy_takes_no_eigendecomposition(monkeypatch, norm):
    def refuse(*_, **__):
        raise AssertionError("eigendecomposition")

    for name in ("eigh", "eigvalsh", "eig", "eigvals", "svd", "svdvals"):
        monkeypatch.setattr(torch.linalg, name, refuse)
    z = views(30, 8)
    set_by(z, "directcopy", norm=norm)
    set_by(z, "directset", power=2.0, norm=norm)
    with pytest.raises(AssertionError):
        set_by(z, "directpred")


def spectra(d):
    x = torch.randn(512, d)
    yield "noise", x.T @ x / 512
    u = torch.linalg.qr(torch.randn(d, d))[0]
    falling = torch.arange(1, d + 1.0)
    for name, s in (
        ("power law", 1 / falling), ("line", falling / d), ("flat top", 1 - (falling / d) ** 2), ("step", falling > 9),
        ("one", falling == 1), ("equal", torch.ones(d)),
    ):  # fmt: skip
        yield name, (u * s) @ u.T * 1e-3


def test_spectral_norm_of_any_spectrum():
    plain = {}
    for d in (1, 2, 5, 64, 400):
        for name, f in spectra(d):
            exact = torch.linalg.eigvalsh(f)[-1].clamp(min=0)
            value, top = rules.spectral_norm(f, torch.zeros(d), cold=True)
            assert abs(value - exact) <= 1e-3 * exact, name
            v = torch.randn(d)
            for _ in range(64):
                v = f @ v / (f @ v).norm()
            plain[name] = float(1 - v @ f @ v / exact)
            assert abs(top.norm() - 1) < 1e-5 or exact == 0
    assert plain["flat top"] > 2e-3 and plain["line"] > 2e-3  # 64 steps of the plain iteration


def test_the_first_step_has_no_vector_to_start_from_and_takes_more():
    d = 128
    s = 1 - (torch.arange(1, d + 1.0) / d) ** 2
    z = torch.linalg.qr(torch.randn(d, d))[0] * (d * s).sqrt() @ torch.linalg.qr(torch.randn(d, d))[0]
    predictor = set_by([z], "directcopy", eps=0)
    assert torch.linalg.matrix_norm(predictor.matrix, 2) == pytest.approx(1, abs=4e-4)


def test_copies_are_symmetric_though_f_is_so_to_rounding_only():
    z = views(30, 8)
    f = second_moment(z) + 1e-12 * torch.randn(8, 8, dtype=torch.float64)
    for power in (1, 2):
        w = rules.directcopy(f, f.norm(), power=power, eps=0.1, norm="frobenius")
        assert (w == w.T).all() and not (f == f.T).all()


def test_spectral_norm_follows_a_stream():
    """Independent batches of noise, the worst case: the first eigenvector of one says nothing of the next."""
    for rho in (0.3, 0.9):
        predictor = SetPredictor(128, "directcopy", rho=rho, eps=0)
        for _ in range(6):
            predictor.prepare([torch.randn(256, 128)] * 2, [])
            exact = torch.linalg.eigvalsh(predictor.correlation)[-1]
            assert torch.linalg.matrix_norm(predictor.matrix, 2) == pytest.approx(1, abs=1e-3)
            assert predictor.correlation.norm() / predictor.matrix.norm() == pytest.approx(float(exact), rel=1e-3)


def test_spectral_norm_leaves_an_eigenvector_that_lost_the_first_place():
    f = torch.diag(torch.cat([torch.ones(3), torch.full((5,), 4.0)]))
    start = torch.eye(8)[0]  # an exact eigenvector, orthogonal to the new first one
    value, top = rules.spectral_norm(f, start, cold=False)
    assert value == pytest.approx(4, rel=1e-5)
    assert top[3:].norm() == pytest.approx(1, abs=1e-5)
    assert start @ f @ start == 1  # where the plain iteration stays


def test_optimal_is_least_squares():
    for n, d in shapes(50, 4):
        n += 2 * d  # enough samples for a unique solution
        for count in (2, 3):
            f, t = views(n, d, count), views(n, d, count)
            predictor = SetPredictor(d, "optimal", eps=0).double()
            predictor.prepare(f, t)
            pairs = [(f[i], t[j]) for i in range(count) for j in range(count) if i != j]
            x, y = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])
            assert relative(predictor.matrix, torch.linalg.lstsq(x, y).solution.T) < 1e-9
            # the online weights then feel no gradient: E[(t - W f) f^T] = 0, so weight decay alone moves W W^T
            assert (y - predictor(x)).T.mm(x).norm() < 1e-9 * y.T.mm(x).norm()


def test_optimal_with_ridge_and_with_singular_f():
    z, t = views(20, 6), views(20, 6)
    predictor = SetPredictor(6, "optimal", eps=0.2).double()
    predictor.prepare(z, t)
    f = second_moment(z)
    cross = (t[1].T @ z[0] + t[0].T @ z[1]) / 40
    ridge = 0.2 * f.trace() / 6 * torch.eye(6, dtype=torch.float64)
    assert relative(predictor.matrix, cross @ torch.linalg.inv(f + ridge)) < 1e-12
    same_view = (t[0].T @ z[0] + t[1].T @ z[1]) / 40
    assert relative(predictor.matrix, same_view @ torch.linalg.inv(f + ridge)) > 0.01
    few = views(3, 30, dtype=torch.float32)  # fewer samples than dimensions
    assert set_by(few, "optimal", eps=0.0).matrix.isfinite().all()


def test_dynamics_of_directpred():
    """ds/dt = 2 p s (1 - (1 + sigma^2) p) - 2 eta s with p from the rule: what shift and eps do to a small mode."""

    def final(s, held=0, **options):
        """The modes after a time of 400, the first `held` of them kept where they are."""
        options = {"eps": 0.0, "rule": "paper", "shift": 0.0} | options
        for _ in range(1600):
            p = rules.directpred(torch.diag(s), **options).diagonal()
            s = torch.cat([s[:held], (s + 0.25 * (2 * p * s * (1 - 1.1 * p) - 2 * 0.04 * s))[held:]])
        return s

    def start(*s):
        return torch.tensor(s, dtype=torch.float64)

    assert final(start(1e-6), shift=-0.05) == pytest.approx(0.702, abs=0.01)  # no basin of collapse
    assert final(start(0.02), shift=0.05) < 1e-6
    assert final(start(0.02)) == pytest.approx(0.752, abs=0.01)
    assert final(start(0.752, 1e-6), 1, eps=0.05)[1] < 1e-6
    assert final(start(0.752, 1e-6), 1, eps=0.1)[1] == pytest.approx(0.627, abs=0.003)
    assert final(start(0.752, 1e-6), 0, eps=0.1)[1] == pytest.approx(0.644, abs=0.003)  # the large mode falls as well
