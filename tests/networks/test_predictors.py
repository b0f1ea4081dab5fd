"""Predictors: their matrices against closed forms, the statistics they follow, and what their gradients are."""

import copy
import threading

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from siamscope import networks
from siamscope.networks import set_predictor as rules
from siamscope.networks.errors import NetworkError
from siamscope.networks.heads_spec import LayerSpec
from siamscope.networks.predictors import (
    KINDS,
    LinearPredictor,
    SetPredictor,
    SymmetricPredictor,
    create_predictor,
)

SET = ("directpred", "directset", "directcopy", "optimal")


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def views(n, d, count=2, *, dtype=torch.float64, offset=0.0):
    """Embeddings of uneven spectrum, `count` views of the same samples."""
    base = torch.randn(n, d, dtype=dtype) * torch.arange(1, d + 1, dtype=dtype) ** -0.5
    return [base + 0.3 * torch.randn(n, d, dtype=dtype) + offset for _ in range(count)]


def set_by(z, kind="directpred", **options):
    """A predictor after one step on the views z, each the other's target."""
    predictor = SetPredictor(z[0].shape[1], kind, **options).to(z[0].dtype)
    predictor.prepare(z, z)
    return predictor


def second_moment(z):
    rows = torch.cat(list(z))
    return rows.T @ rows / len(rows)


def shapes(count, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        n, d = (int(x) for x in rng.integers((4, 3), (65, 64)))
        yield n, d + (n == d)


def relative(a, b):
    return float((a - b).norm() / b.norm())


# ------------------------------------------------------------------------------------------------------- the rules


def test_directpred_is_the_papers_formula():
    for n, d in shapes(50):
        z = views(n, d)
        f = second_moment(z).numpy()
        s, u = np.linalg.eigh(f)
        s = np.clip(s, 0, None)
        for eps, shift in ((0.0, 0.0), (0.3, 0.0), (0.1, 0.05), (0.1, -0.05)):
            root = np.sqrt(np.clip(s - shift, 0, None))
            for rule, boost in (("paper", eps * s[-1]), ("code", eps * np.sqrt(s[-1]))):
                w = set_by(z, eps=eps, shift=shift, rule=rule).matrix.numpy()
                # the root of an eigenvalue that is zero up to rounding has the root of that rounding
                assert np.linalg.norm(w - (u * (root + boost)) @ u.T) < 1e-7 * np.linalg.norm(root)
                assert (w == w.T).all()


def test_directpred_eigenvalues_of_a_full_rank_f():
    z = views(200, 20)
    f = second_moment(z)
    for eps, shift in ((0.0, 0.0), (0.3, 0.0), (0.1, -0.05)):
        s, u = torch.linalg.eigh(f)
        root = (s - shift).sqrt()
        for rule, boost in (("paper", eps * s[-1]), ("code", eps * s[-1].sqrt())):
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


def test_code_rule_is_directset_of_a_half_up_to_scale():
    for n, d in shapes(50, 2):
        z = views(n, d)
        scale = torch.linalg.matrix_norm(second_moment(z), 2).sqrt()
        a = set_by(z, "directpred", rule="code", eps=0.2).matrix
        b = set_by(z, "directset", power=0.5, eps=0.2).matrix
        assert relative(b * scale, a) < 1e-12
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


# -------------------------------------------------------------------------------------------------- the statistics


@pytest.mark.parametrize("kind", SET)
def test_the_average_is_exact(kind):
    rho, batches = 0.7, [(views(9, 5), views(9, 5)) for _ in range(5)]
    predictor = SetPredictor(5, kind, rho=rho).double()
    for online, target in batches:
        predictor.prepare(online, target)
    weights = [rho**4] + [(1 - rho) * rho ** (4 - t) for t in range(1, 5)]  # the first batch counts whole
    assert sum(weights) == pytest.approx(1, abs=1e-15)
    expected = sum(w * second_moment(f) for w, (f, _) in zip(weights, batches, strict=True))
    assert relative(predictor.correlation, expected) < 1e-14
    from_zero = expected - rho**5 * second_moment(batches[0][0])
    assert relative(from_zero, expected) > 0.1
    if kind == "optimal":
        cross = [(t[1].T @ f[0] + t[0].T @ f[1]) / 18 for f, t in batches]
        assert relative(predictor.moments.cross, sum(w * c for w, c in zip(weights, cross, strict=True))) < 1e-14


def test_centred_is_the_moment_less_the_means():
    rho = 0.7
    for kind in ("directpred", "optimal"):
        predictor = SetPredictor(5, kind, rho=rho, centred=True).double()
        raw = cross = f_mean = t_mean = None
        for _ in range(4):
            f, t = views(9, 5, offset=float(torch.randn(()))), views(9, 5, offset=1.0)
            predictor.prepare(f, t)
            new = second_moment(f), (t[1].T @ f[0] + t[0].T @ f[1]) / 18, torch.cat(f).mean(0), torch.cat(t).mean(0)
            old = new if raw is None else (raw, cross, f_mean, t_mean)
            raw, cross, f_mean, t_mean = (rho * a + (1 - rho) * b for a, b in zip(old, new, strict=True))
        assert relative(predictor.correlation, raw - torch.outer(f_mean, f_mean)) < 1e-13
        assert relative(predictor.correlation, raw) > 0.01
        if kind == "optimal":
            assert relative(predictor.moments.cross, cross - torch.outer(t_mean, f_mean)) < 1e-13


def test_centred_keeps_its_digits_far_from_the_origin():
    predictor = SetPredictor(4, centred=True)
    for _ in range(3):
        z = [torch.randn(50, 4) + 3000 for _ in range(2)]
        predictor.prepare(z, z)
    assert torch.linalg.eigvalsh(predictor.correlation)[0] > 0.3
    rows = torch.cat(z)
    naive = rows.T @ rows / 100 - torch.outer(rows.mean(0), rows.mean(0))
    assert (naive - torch.cov(rows.T.double(), correction=0)).abs().max() > 0.1


def test_set_on_every_nth_step_and_trained_in_between():
    z = [views(30, 6) for _ in range(8)]
    always, third = SetPredictor(6, every=1).double(), SetPredictor(6, every=3).double()
    assert [p for p in always.parameters() if p.requires_grad] == []
    optimizer = torch.optim.SGD([p for p in third.parameters() if p.requires_grad], lr=0.1)
    for step, batch in enumerate(z):
        before = third.matrix.detach().clone()
        for predictor in (always, third):
            predictor.prepare(batch, batch)
        assert torch.equal(always.correlation, third.correlation)  # F follows every batch
        assert torch.equal(third.matrix, always.matrix if step % 3 == 0 else before)
        optimizer.zero_grad()
        (third(batch[0]) - batch[1]).square().mean().backward()
        optimizer.step()
        assert not torch.equal(third.matrix, always.matrix)
    assert int(third.steps) == 8


@pytest.mark.parametrize("kind", SET)
def test_a_resumed_run_repeats_the_rest_to_the_last_bit(kind):
    batches = [(views(20, 6, dtype=torch.float32), views(20, 6, dtype=torch.float32)) for _ in range(7)]

    def run(predictor, part):
        for f, t in part:
            predictor.prepare(f, t)
        return predictor

    options = {"every": 3, "partitions": 2 if kind == "directpred" else 1, "centred": True}
    whole = run(SetPredictor(6, kind, **options), batches)
    half = run(SetPredictor(6, kind, **options), batches[:4])
    torch.manual_seed(99)
    resumed = SetPredictor(6, kind, **options)
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    run(resumed, batches[4:])
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


def test_eval_mode_keeps_the_statistics():
    predictor = set_by(views(20, 6)).eval()
    before = copy.deepcopy(predictor.state_dict())
    predictor.prepare(views(20, 6), views(20, 6))
    assert all(torch.equal(before[k], v) for k, v in predictor.state_dict().items())


class Ranks:
    """Processes played by threads: `mean` waits for all and averages."""

    def __init__(self, size):
        self.size, self.box = size, [None] * size
        self.barrier = threading.Barrier(size, timeout=20)

    def mean(self, rank):
        def average(x):
            self.box[rank] = x.clone()
            self.barrier.wait()
            total = sum(self.box[1:], self.box[0].clone()) / self.size
            self.barrier.wait()
            return total

        return average

    def run(self, work):
        threads = [threading.Thread(target=work, args=(rank, self.mean(rank))) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, options) for kind in SET for options in ({}, {"centred": True})]
    + [("directpred", {"partitions": 3}), ("directpred", {"partitions": 2, "centred": True})],
)
def test_ranks_share_the_batch(kind, options):
    batches = [(views(12, 5, offset=0.2), views(12, 5)) for _ in range(3)]
    alone = SetPredictor(5, kind, **options).double()
    for f, t in batches:
        alone.prepare(f, t)
    for size in (2, 4):
        ranks, found = Ranks(size), {}

        def work(rank, mean, size=size, found=found):
            predictor = SetPredictor(5, kind, **options, mean=mean).double()
            n = 12 // size
            for f, t in batches:
                predictor.prepare(*([z[rank * n : rank * n + n] for z in group] for group in (f, t)))
            found[rank] = predictor.state_dict()

        ranks.run(work)
        for rank in range(size):
            for name, value in alone.state_dict().items():
                torch.testing.assert_close(found[rank][name], value, rtol=1e-12, atol=1e-12, msg=name)


def test_partitions_by_hand():
    z, eps = views(40, 5, offset=0.5), 0.1
    predictor = set_by(z, partitions=3, eps=eps)
    rows, normals = torch.cat(z), predictor.moments.normals
    side = (rows - rows.mean(0)) @ normals.T >= 0
    expected = torch.zeros_like(rows)
    for plane in range(3):
        for value in (False, True):
            chosen = side[:, plane] == value
            assert 0 < chosen.sum() < len(rows)
            part = rows[chosen]
            f = part.T @ part / len(part)
            assert relative(predictor.correlation[plane, int(value)], f) < 1e-12
            w = rules.directpred(f, eps=eps, rule="code", shift=0.0)
            assert relative(predictor.matrix[plane, int(value)], w) < 1e-10
            expected[chosen] += part @ w.T
    assert relative(predictor(rows), expected) < 1e-10
    assert relative(3 * rows @ set_by(z, eps=eps).matrix.T, expected) > 0.01  # the unsplit predictor


def test_a_side_without_samples_keeps_its_moments():
    predictor = SetPredictor(4, partitions=2, rho=0.5).double()
    z = views(40, 4)
    predictor.prepare(z, z)
    before = predictor.correlation.clone()
    normal = predictor.moments.normals[0]
    far = [(100 * normal).expand(8, 4) + 0.01 * torch.randn(8, 4).double() for _ in range(2)]
    predictor.prepare(far, far)
    assert torch.equal(predictor.correlation[0, 0], before[0, 0])
    assert relative(predictor.correlation[0, 1], 0.5 * before[0, 1] + 0.5 * second_moment(far)) < 1e-12
    assert predictor.matrix.isfinite().all()


def test_planes_are_the_same_on_every_rank():
    planes = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        planes.append(SetPredictor(6, partitions=4).moments.normals)
        assert torch.equal(torch.get_rng_state(), state)  # and nobody else's draws move
    assert torch.equal(*planes)


# ---------------------------------------------------------------------------------------- precision and hard input


def test_statistics_stay_in_float32():
    predictor = SetPredictor(8, rho=0.9999).half()
    for buffer in predictor.moments.buffers():
        assert buffer.dtype == torch.float32
    z = [torch.randn(64, 8).half() for _ in range(2)]
    predictor.prepare(z, z)
    first = predictor.correlation.clone()
    predictor.prepare([2 * x for x in z], z)
    moved = (predictor.correlation - first).diagonal()
    assert (moved > 0).all()
    stalled = first.half() * 0.9999 + (4 * first * 1e-4).half()
    assert (stalled == first.half()).any()  # in half precision an EMA does not move
    assert predictor.double().correlation.dtype == torch.float64
    assert torch.equal(predictor.correlation, predictor.half().correlation)


def test_autocast_does_not_touch_the_statistics():
    z = views(64, 16, dtype=torch.float32)
    for kind in SET:
        plain, cast = SetPredictor(16, kind), SetPredictor(16, kind)
        plain.prepare(z, z)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast.prepare(z, z)
            assert cast(z[0]).dtype == torch.bfloat16
        assert torch.equal(plain.matrix, cast.matrix)


def test_zero_features_give_a_finite_result():
    zero, eye = [torch.zeros(4, 3)] * 2, torch.eye(3)
    expected = {"directpred": 0 * eye, "directset": 0.1 * eye, "directcopy": 0.1 * eye, "optimal": 0 * eye}
    for kind, w in expected.items():
        for norm in ("spectral", "frobenius"):
            predictor = SetPredictor(3, kind, norm=norm)
            for _ in range(2):
                predictor.prepare(zero, zero)
            assert torch.equal(predictor.matrix, w)
            predictor.prepare([torch.ones(4, 3)] * 2, [torch.ones(4, 3)] * 2)  # and is no trap
            assert predictor.matrix.isfinite().all() and not torch.equal(predictor.matrix, w)
    split = SetPredictor(3, partitions=2)
    split.prepare(zero, zero)
    assert split.matrix.isfinite().all() and split(zero[0]).isfinite().all()


@pytest.mark.parametrize("kind", SET)
def test_nan_in_nan_out(kind):
    z = views(10, 4)
    z[0][2, 1] = float("nan")
    predictor = set_by(z, kind)  # no exception: the training loop looks at the loss
    assert predictor(z[1]).isnan().any()


def test_eigenvalues_that_do_not_converge_are_tried_in_float64(monkeypatch):
    right = torch.linalg.eigh

    def fails_in_float32(f):
        if f.dtype == torch.float32:
            raise torch.linalg.LinAlgError("failed to converge")
        return right(f)

    z = views(30, 6, dtype=torch.float32)
    expected = set_by(z).matrix
    monkeypatch.setattr(torch.linalg, "eigh", fails_in_float32)
    assert relative(set_by(z).matrix, expected) < 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.1}, "eps"),
        ({"eps": float("nan")}, "eps"),
        ({"rho": 1.5}, "rho"),
        ({"rho": -0.1}, "rho"),
        ({"every": 0}, "every"),
        ({"every": 1.5}, "every"),
        ({"partitions": 0}, "partitions"),
        ({"partitions": 2, "kind": "directcopy"}, "partitions"),
        ({"power": 0.0}, "power"),
        ({"shift": float("inf")}, "shift"),
        ({"rule": "book"}, "rule"),
        ({"norm": "nuclear"}, "norm"),
        ({"kind": "magic"}, "kind"),
        ({"width": 0}, "width"),
        ({"speed": 3}, "options: unknown speed"),
    ],
)
def test_bad_arguments(options, message):
    options = {"kind": "directpred", "width": 4} | options
    kind, width = options.pop("kind"), options.pop("width")
    with pytest.raises(NetworkError, match=message):
        create_predictor(kind, width, options=options)


@pytest.mark.parametrize(
    ("kind", "online", "target", "message"),
    [
        ("directpred", [], [], "online: .* one view or more"),
        ("directpred", [torch.zeros(4, 5)], [], r"online\[0\] must be \(n, 3\)"),
        ("directpred", [torch.zeros(4, 3), torch.zeros(5, 3)], [], r"online\[1\]"),
        ("directpred", [torch.zeros(0, 3)], [], r"online\[0\]"),
        ("optimal", [torch.zeros(4, 3)], [torch.zeros(4, 3)], "two or more views"),
        ("optimal", [torch.zeros(4, 3)] * 2, [torch.zeros(4, 3)], "got 2 and 1"),
        ("optimal", [torch.zeros(4, 3)] * 2, [torch.zeros(4, 3), torch.zeros(3, 3)], r"target\[1\]"),
    ],
)
def test_bad_embeddings(kind, online, target, message):
    with pytest.raises(NetworkError, match=message):
        SetPredictor(3, kind).prepare(online, target)


# ---------------------------------------------------------------------------------------------------- the gradients


def gradient(predictor, z, t, loss):
    z = z.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(predictor(z), t), z)
    return grad


def cosine_loss(p, t):
    return -(F.normalize(p, dim=1) * F.normalize(t, dim=1)).sum(1).mean()


def euclidean_loss(p, t):
    return (p - t).square().sum(1).mean()


@pytest.mark.parametrize("kind", ["linear", "symmetric", *SET])
def test_gradient_of_any_linear_predictor(kind):
    """d/du of -cos(W u, t) is (-W^T t + lambda W^T W u) / (|W u| N), lambda = (u W^T t) / (u W^T W u), for unit t."""
    for n, d in shapes(50, 5):
        u, t = (F.normalize(x, dim=1) for x in views(n, d))
        predictor = create_predictor(kind, d).double()
        predictor.prepare([u, t], [u, t])
        w = predictor.matrix.detach()
        p = u @ w.T
        balance = (p * t).sum(1, keepdim=True) / p.square().sum(1, keepdim=True)
        expected = (-t @ w + balance * p @ w) / (p.norm(dim=1, keepdim=True) * n)
        found = gradient(predictor, u, t, cosine_loss)
        assert relative(found, expected) < 1e-10
        if kind == "linear":  # W is far from symmetric
            assert relative(found, (-t @ w.T + balance * p @ w.T) / (p.norm(dim=1, keepdim=True) * n)) > 0.01


def test_directpreds_negative_holds_the_mixed_term():
    """W^T W = F + 2 eps sqrt(s_max) F^(1/2) + eps^2 s_max I; what leaves the mixed term out errs visibly."""
    for eps in (0.05, 0.1, 0.3, 0.5):
        z = [F.normalize(x, dim=1) for x in views(400, 16)]
        w = set_by(z, eps=eps, rule="code").matrix
        s, u = torch.linalg.eigh(second_moment(z))
        root, eye = (u * s.sqrt()) @ u.T, torch.eye(16, dtype=torch.float64)
        exact = (u * s) @ u.T + 2 * eps * s[-1].sqrt() * root + eps**2 * s[-1] * eye
        assert relative(w.T @ w, exact) < 1e-12

        def tangent(q, z=z[0]):
            g = z @ q
            return g - (g * z).sum(1, keepdim=True) * z

        without = tangent(exact - 2 * eps * s[-1].sqrt() * root)
        assert 0.02 < relative(without, tangent(exact)) < 0.5
        assert F.cosine_similarity(without.flatten(), tangent(exact).flatten(), dim=0) > 0.97


def isoloss_euclidean(z, p, t):
    """|z - stop(t + z - p)|^2, the Euclidean IsoLoss."""
    return (z - (t + z - p).detach()).square().sum(1).mean()


def isoloss_cosine(z, p, half, t):
    """The cosine IsoLoss: -cos(p, t) with p's gradient written out; half = W^(1/2) z, whose square is z^T W z."""
    length, size = p.norm(dim=1).detach(), t.norm(dim=1)
    inner = (p * t).sum(1).detach()
    return -((z * t).sum(1) / (length * size) - 0.5 * inner / (length**3 * size) * half.square().sum(1)).mean()


def test_straight_through_is_isoloss():
    for n, d in shapes(50, 6):
        z, t = views(n, d)
        predictor, usual = set_by([z, t], straight_through=True), set_by([z, t])
        w = predictor.matrix
        s, u = torch.linalg.eigh(w)
        half = (u * s.clamp(min=0).sqrt()) @ u.T
        x = z.clone().requires_grad_()
        (cosine,) = torch.autograd.grad(isoloss_cosine(x, x @ w.T, x @ half, t), x)
        (euclidean,) = torch.autograd.grad(isoloss_euclidean(x, x @ w.T, t), x)
        for loss, expected in ((cosine_loss, cosine), (euclidean_loss, euclidean)):
            found, ordinary = gradient(predictor, z, t, loss), gradient(usual, z, t, loss)
            assert relative(found, expected) < 1e-10
            assert relative(ordinary, found @ w) < 1e-10  # the factor W^T that IsoLoss leaves out
            assert relative(ordinary, expected) > 0.01
        assert torch.equal(predictor(z), usual(z))  # the prediction itself is the same


@pytest.mark.parametrize("kind", KINDS[1:])
def test_straight_through_trains_the_predictor_as_usual(kind):
    z, t = views(20, 6)
    head = [LayerSpec(9, True, "batch", "relu"), LayerSpec(9, True, "none", "none")]
    predictor = create_predictor(kind, 6, hidden_layers=head, options={"straight_through": True, "every": 2}).double()
    usual = copy.deepcopy(predictor)
    usual.straight_through = False
    for one in (predictor, usual):
        one.prepare([z, t], [z, t])
        cosine_loss(one(z), t).backward()
    pairs = list(zip(predictor.parameters(), usual.parameters(), strict=True))
    assert pairs and all(torch.equal(a.grad, b.grad) for a, b in pairs)
    p = predictor(z).detach().requires_grad_()
    assert relative(gradient(predictor, z, t, cosine_loss), torch.autograd.grad(cosine_loss(p, t), p)[0]) < 1e-12


# ------------------------------------------------------------------------------------------------ trained predictors


def test_linear_is_a_linear_layer():
    torch.manual_seed(3)
    predictor = LinearPredictor(7)
    torch.manual_seed(3)
    layer = torch.nn.Linear(7, 7, bias=False)
    z = torch.randn(5, 7)
    assert torch.equal(predictor(z), layer(z))
    assert list(predictor.state_dict()) == list(layer.state_dict())
    assert torch.equal(predictor(z), F.linear(z, predictor.matrix))


def make_optimizer(name, params):
    return {
        "sgd": lambda: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=1e-2),
        "adamw": lambda: torch.optim.AdamW(params, lr=1e-2, weight_decay=1e-2),
    }[name]()


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_symmetric_stays_symmetric_to_the_last_bit(name):
    losses = {}
    for kind in (SymmetricPredictor, LinearPredictor):
        predictor = kind(9)
        optimizer = make_optimizer(name, predictor.parameters())
        for _ in range(30):
            z, t = views(16, 9, dtype=torch.float32)
            loss = cosine_loss(predictor(z), t)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[kind] = (predictor.weight - predictor.weight.T).abs().max().item()
    assert losses[SymmetricPredictor] == 0
    assert losses[LinearPredictor] > 1e-3


def test_symmetric_takes_the_projected_gradient_step():
    """One SGD step is the linear predictor's step followed by (W + W^T) / 2."""
    predictor = SymmetricPredictor(6).double()
    plain = LinearPredictor(6).double()
    plain.weight.data.copy_(predictor.matrix.detach())
    z, t = views(20, 6)
    for one in (predictor, plain):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.3)
        cosine_loss(one(z), t).backward()
        optimizer.step()
    w = plain.matrix.detach()
    assert relative(predictor.matrix.detach(), (w + w.T) / 2) < 1e-14


def test_symmetric_starts_positive_at_a_linear_layers_size():
    for d in (32, 128):
        w = SymmetricPredictor(d).matrix.detach()
        assert torch.linalg.eigvalsh(w)[0] > -1e-6
        assert w.norm() == pytest.approx(float(LinearPredictor(d).matrix.detach().norm()), rel=0.15)
        random = LinearPredictor(d).matrix.detach()
        assert torch.linalg.eigvalsh((random + random.T) / 2)[0] < -0.1


def test_mlp_is_the_head():
    head = [LayerSpec(9, False, "batch", "relu"), LayerSpec(100, True, "none", "relu")]
    torch.manual_seed(4)
    predictor = create_predictor("mlp", 6, hidden_layers=head)
    torch.manual_seed(4)
    expected = networks.mlp(6, [head[0], LayerSpec(6, True, "none", "none")])
    z = torch.randn(5, 6)
    assert torch.equal(predictor(z), expected(z))
    assert list(predictor.state_dict()) == list(expected.state_dict())
    with pytest.raises(NetworkError, match="hidden_layers"):
        create_predictor("mlp", 6)


def test_none_passes_everything():
    z = torch.randn(3, 4)
    assert create_predictor("none", 4)(z) is z
    with pytest.raises(NetworkError, match="straight_through"):
        create_predictor("none", 4, options={"straight_through": True})


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_prepares_and_predicts(kind):
    predictor = create_predictor(kind, 4, hidden_layers=[LayerSpec(4, True, "none", "none")], options={"rho": 0.5})
    z = torch.randn(6, 4, requires_grad=True)
    predictor.prepare([z, z], [z, z])
    p = predictor(z)
    assert p.shape == z.shape and p.requires_grad
    assert not any(b.requires_grad for b in predictor.buffers())
