"""What a predictor set from statistics follows: exact averages, resume, ranks, partitions, precision, hard input."""

import copy
import threading

import pytest
import torch
from predictor_cases import SET, relative, second_moment, set_by, views

from siamscope.networks import set_predictor as rules
from siamscope.networks.errors import NetworkError
from siamscope.networks.predictors import SetPredictor, create_predictor


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


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
    expected = {"directpred": 0.1 * eye, "directset": 0.1 * eye, "directcopy": 0.1 * eye, "optimal": 0 * eye}
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
