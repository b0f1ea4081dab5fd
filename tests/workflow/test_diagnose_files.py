"""`siamscope diagnose` on files of features: closed forms, limits for pipelines, and input that cannot be used."""

import json
import sys

import numpy as np
import pytest

from siamscope import cli, collapse
from siamscope.workflow.diagnose import arrays, limits
from siamscope.workflow.diagnose.loaded import DiagnoseError

D = 16


def run(*words) -> int:
    try:
        return cli.run(["diagnose", *map(str, words)])
    except SystemExit as stop:  # the parser's own errors
        return int(stop.code or 0)


def with_spectrum(sigma, n, seed=0):
    """(n, d) float64 rows with mean 0 and exactly these singular values, in random directions."""
    rng = np.random.default_rng(seed)
    d = len(sigma)
    x = rng.normal(size=(n, d))
    q = np.linalg.qr(x - x.mean(0))[0]
    q = np.linalg.qr(q - q.mean(0))[0]
    return (q * sigma) @ np.linalg.qr(rng.normal(size=(d, d)))[0].T


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """flat: equal variance in 16 directions. line: a plane's worth of variance. point: equal rows."""
    root = tmp_path_factory.mktemp("features")
    np.save(root / "flat.npy", with_spectrum(np.ones(D), 512))
    np.save(root / "thin.npy", with_spectrum(np.r_[1.0, 0.5, np.full(D - 2, 1e-6)], 512))
    np.save(root / "point.npy", np.full((64, D), 0.3, np.float32))
    return root


def as_json(capsys, *words):
    code = run(*words, "--json", "--no-write")
    out = capsys.readouterr().out
    return code, json.loads(out)


def test_scores_are_the_closed_forms_and_self_describing(files, capsys):
    code, facts = as_json(capsys, files / "flat.npy")
    assert code == 0
    (one,) = facts["inputs"]
    scores = {name: found["value"] for name, found in one["scores"].items()}
    assert scores["auc_sigma"] == pytest.approx((D + 1) / (2 * D), abs=1e-9)
    assert scores["effective_rank"] == pytest.approx(D, rel=1e-9)
    assert scores["nesum"] == pytest.approx(D, rel=1e-9)
    assert one["verdict"]["status"] == "healthy"
    assert one["baseline"]["auc_sigma"] == pytest.approx(collapse.baseline.isotropic(512, D).auc_sigma)
    # what acceptance row 22 asks a result to say of itself
    assert (one["n"], one["d"], one["about"]["split"], one["about"]["transform"]) == (512, D, "unknown", "unknown")
    said = one["conventions"]
    assert (said["center"], said["row_norm"], said["rankme_eps"], said["dtype"]) == (True, False, 1e-7, "float64")
    assert said["siamscope"] == facts["siamscope"] and said["lidar_delta"] == 1e-4
    assert {"formula", "source", "convention", "advice"} <= set(facts["definitions"]["auc_sigma"])


def test_thin_features_are_called_collapsed_and_flat_ones_are_not(files, capsys):
    _, facts = as_json(capsys, files / "flat.npy", files / "thin.npy", files / "point.npy")
    assert [one["verdict"]["status"] for one in facts["inputs"]] == ["healthy", "collapse", "complete collapse"]
    assert facts["inputs"][1]["spectrum"]["dead_directions"] == D - 2
    assert facts["inputs"][2]["spectrum"]["dead_dimensions"] == D
    assert any("numbers of samples (64, 512)" in text for text in facts["warnings"])
    assert not any("numbers of dimensions" in text for text in facts["warnings"])


def test_golden_spectra_through_a_file(spectra, tmp_path, capsys):
    """Two measured spectra of Li et al. give their AUC when features with these singular values are diagnosed."""
    golden = {"p1": 0.6097620476, "p20": 0.8787150303}
    for name, value in golden.items():
        np.save(tmp_path / f"{name}.npy", with_spectrum(spectra[name].astype(np.float64), 1024))
        words = (tmp_path / f"{name}.npy", "--interval", "none", "--only", "auc")
        _, facts = as_json(capsys, *words)
        assert facts["inputs"][0]["scores"]["auc_sigma"]["value"] == pytest.approx(value, abs=1e-6)


def test_views_of_one_point_up_to_rounding(tmp_path, capsys):
    """Neither LiDAR nor the spectrum may tell directions of noise."""
    noise = np.random.default_rng(0).normal(size=(300, 4, 16))
    np.save(tmp_path / "point3.npy", (3 * (1 + 6e-8 * noise)).astype(np.float32))
    np.save(tmp_path / "cloud3.npy", (3 + noise).astype(np.float32))
    _, facts = as_json(capsys, tmp_path / "point3.npy", tmp_path / "cloud3.npy")
    point, cloud = facts["inputs"]
    assert point["verdict"]["status"] == "complete collapse" and cloud["verdict"]["status"] == "healthy"
    for name in ("lidar", "alignment", "auc_sigma"):
        assert "all rows are one point" in point["scores"][name]["flags"][0], name
    assert (point["scores"]["lidar"]["value"], point["scores"]["alignment"]["value"]) == (1, 0)
    spectrum = point["spectrum"]
    assert (spectrum["k50"], spectrum["k99"], spectrum["dead_directions"]) == (1, 1, 15) and not any(spectrum["sigma"])
    assert cloud["scores"]["lidar"]["value"] > 5 and cloud["spectrum"]["k50"] > 5


def test_the_picture_of_many_inputs_says_how_many_it_shows(files, tmp_path, capsys):
    for count, said in ((5, False), (6, True)):
        assert run(*[files / "flat.npy"] * count, "--out", tmp_path / "out", "--interval", "none", "--quiet") == 0
        assert ("diagnose.png (of the first 5 inputs)" in capsys.readouterr().out) == said


def test_limits_give_exit_code_5(files, capsys):
    thin = files / "thin.npy"
    assert as_json(capsys, thin, "--fail-above", "auc=0.99", "--fail-below", "rankme=1")[0] == 0
    code, facts = as_json(capsys, thin, "--fail-above", "auc=0.95,effective-rank=1.5", "--fail-below", "rankme=20")
    assert code == 5
    assert [line.split(":")[1].split()[0] for line in facts["failed"]] == ["auc_sigma", "effective_rank", "rankme"]
    assert run(thin, "--fail-above", "auc=0.95", "--no-write") == 5
    assert "FAILED" in capsys.readouterr().out


def test_a_score_without_a_value_breaks_its_limit(files, capsys):
    """alpha-ReQ has no value in 16 dimensions: a pipeline must not pass for that."""
    code, facts = as_json(capsys, files / "flat.npy", "--fail-above", "alpha=3")
    assert code == 5
    assert "could not be computed" in facts["failed"][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--fail-above", "acu=0.9"], "did you mean 'auc'"),
        (["--fail-below", "rankme"], "SCORE=NUMBER"),
        (["--fail-above", "auc=nan"], "SCORE=NUMBER"),
        (["--only", "ranks"], "unknown score"),
        (["--only", "lidar"], "needs several views"),
        (["--fail-below", "lidar=2"], "needs several views"),
        (["--views", "1"], "at least 2"),
        (["--samples", "1"], "at least 2"),
    ],
)
def test_options_that_make_no_sense(files, capsys, words, said):
    assert run(files / "flat.npy", "--no-write", *words) == 2
    assert said in capsys.readouterr().err


def test_limits_are_parsed_by_their_short_names():
    known = list(collapse.DEFINITIONS)
    assert limits.parse("auc=0.9, erank=2", True, known) == [
        limits.Limit("auc_sigma", True, 0.9), limits.Limit("effective_rank", True, 2.0),
    ]  # fmt: skip
    assert limits.parse("", True, known) == []
    bound = limits.parse("std=0.3", False, known)
    assert limits.broken(bound, {"embedding_std": 0.3}, "x") == []  # at the limit is not below it
    assert len(limits.broken(bound, {"embedding_std": 0.2999}, "x")) == 1


def test_only_still_shows_what_the_verdict_rests_on(files, capsys):
    _, facts = as_json(capsys, files / "flat.npy", "--only", "nesum")
    assert list(facts["inputs"][0]["scores"]) == ["auc_sigma", "effective_rank", "nesum", "embedding_std"]


def test_interval_none_gives_no_interval(files, capsys):
    def interval(*words):
        found = as_json(capsys, files / "flat.npy", *words)[1]["inputs"][0]["scores"]["auc_sigma"]
        return found["low"], found["high"]

    low, high = interval()
    assert low <= (D + 1) / (2 * D) + 1e-9 and high > low
    assert interval("--interval", "none") == (None, None)


def test_conventions_change_the_numbers_and_are_recorded(tmp_path, capsys):
    np.save(tmp_path / "shifted.npy", with_spectrum(np.ones(D), 512) + 10)
    plain, shifted = (as_json(capsys, tmp_path / "shifted.npy", *w)[1]["inputs"][0] for w in ([], ["--no-center"]))
    assert plain["scores"]["auc_sigma"]["value"] == pytest.approx((D + 1) / (2 * D), abs=1e-7)
    assert shifted["scores"]["auc_sigma"]["value"] > 0.9
    assert shifted["conventions"]["center"] is False
    normed = as_json(capsys, tmp_path / "shifted.npy", "--row-norm")[1]["inputs"][0]
    assert normed["conventions"]["row_norm"] is True
    assert plain["verdict"]["status"] == "collapse"  # all rows differ by less than 1 % of the offset's size
    assert "nearly the same features" in plain["verdict"]["reasons"][0]


def test_the_same_offset_in_moderation_is_a_note_and_embeddings_are_judged_by_their_spread(tmp_path, capsys):
    x = np.random.default_rng(0).normal(size=(512, D)) + 4
    np.save(tmp_path / "offset.npy", x)
    (one,) = as_json(capsys, tmp_path / "offset.npy")[1]["inputs"]
    assert one["verdict"]["status"] == "healthy"
    assert any("common offset" in note for note in one["verdict"]["notes"])
    (one,) = as_json(capsys, tmp_path / "offset.npy", "--embeddings")[1]["inputs"]
    assert one["verdict"]["status"] == "collapse"
    assert "one point" in one["verdict"]["reasons"][0]


# ------------------------------------------------------------------------------------------ forms of files


def test_text_with_and_without_a_heading_reads_as_the_array(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3))
    for name, separator in (("a.csv", ","), ("b.tsv", "\t"), ("c.txt", " ")):
        for header in ("", separator.join("xyz")):
            np.savetxt(tmp_path / name, x, delimiter=separator, header=header, comments="")
            np.testing.assert_allclose(arrays.read(tmp_path / name, name).features, x)


def test_npz_with_split_names_and_groups(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 3))
    np.savez(tmp_path / "e.npz", features=x, names=np.arange(12), split=np.repeat(["train", "test"], [8, 4]))
    assert arrays.read(tmp_path / "e.npz", "e").features.shape == (12, 3)
    np.testing.assert_array_equal(arrays.read(tmp_path / "e.npz", "e", "test").features, x[8:])
    with pytest.raises(DiagnoseError, match="no rows of the validation split; it has test, train"):
        arrays.read(tmp_path / "e.npz", "e", "validation")
    ids = rng.permutation(np.repeat(np.arange(4), 3))
    np.savez(tmp_path / "g.npz", features=x, groups=ids)
    found = arrays.read(tmp_path / "g.npz", "g")
    assert found.views.shape == (4, 3, 3)
    for k in range(4):
        np.testing.assert_array_equal(found.views[k], x[ids == k])
    np.testing.assert_array_equal(found.features, found.views[:, 0])
    np.savez(tmp_path / "ids.npz", features=x, ids=np.arange(12))  # names of images, no groups
    assert arrays.read(tmp_path / "ids.npz", "ids").views is None


def test_three_axes_are_views_and_give_lidar(tmp_path, capsys):
    """Means +- Hadamard rows, views +- sqrt(.1) e_k: LiDAR is d (reference, row 10)."""
    from scipy.linalg import hadamard

    means = np.concatenate([hadamard(D), -hadamard(D)]).astype(np.float64)
    noise = np.sqrt(0.1) * np.concatenate([np.eye(D), -np.eye(D)])
    np.save(tmp_path / "views.npy", means[:, None] + noise[None])
    (one,) = as_json(capsys, tmp_path / "views.npy")[1]["inputs"]
    assert one["scores"]["lidar"]["value"] == pytest.approx(D, rel=1e-9)
    assert (one["n"], one["conventions"]["views"]) == (2 * D, [2 * D, 2 * D, D])
    assert any("first of 32 views" in note for note in one["notes"])


def test_a_large_array_stays_on_disk(tmp_path, capsys):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.normal(size=(4096, D)).astype(np.float32))
    found = arrays.read(tmp_path / "x.npy", "x")
    assert isinstance(found.features, np.memmap)
    (one,) = as_json(capsys, tmp_path / "x.npy")[1]["inputs"]
    direct = collapse.diagnose(np.load(tmp_path / "x.npy"))
    assert one["scores"]["rankme"]["value"] == pytest.approx(direct["rankme"], rel=1e-12)


def test_torch_is_not_imported_for_files(files):
    import subprocess

    code = (
        "import sys; from siamscope.cli import run\n"
        f"assert run(['diagnose', {str(files / 'flat.npy')!r}, '--no-write']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


# ------------------------------------------------------------------------------------------ bad input


def bad(tmp_path, name):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3))
    path = tmp_path / f"{name}.npy"
    made = {
        "one row": x[:1], "no rows": x[:0], "one column": x[:, :1], "1-D": x[:, 0], "4-D": np.ones((4, 3, 2, 2)),
        "one view": x[:, None], "complex": x + 1j, "text": x.astype(str), "truth": x > 0,
        "objects": np.array([{}, {}], dtype=object), "nan": np.where(x > 1, np.nan, x),
        "infinite": np.where(x > 1, np.inf, x),
    }  # fmt: skip
    np.save(path, made[name], allow_pickle=True)
    return path


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one row", "has 1 row; a spectrum needs at least 2"),
        ("no rows", "0 rows"),
        ("one column", "has 1 column; a spectrum needs at least 2"),
        ("1-D", "expected (N, d)"),
        ("4-D", "pool feature maps first"),
        ("one view", "1 view of each image"),
        ("complex", "complex"),
        ("text", "expected numbers"),
        ("truth", "expected numbers"),
        ("objects", "Python objects"),
        ("nan", "NaN or infinite"),
        ("infinite", "NaN or infinite"),
    ],
)
def test_arrays_that_are_no_features(tmp_path, capsys, name, said):
    assert run(bad(tmp_path, name), "--no-write") == 2
    err = capsys.readouterr().err
    assert said in err and "Traceback" not in err


def test_whole_numbers_are_taken_with_a_question(tmp_path, capsys):
    np.save(tmp_path / "int.npy", np.random.default_rng(0).integers(0, 9, (200, 4)))
    (one,) = as_json(capsys, tmp_path / "int.npy")[1]["inputs"]
    assert any("not pixels or labels" in note for note in one["notes"])


def test_unequal_groups_are_refused(tmp_path, capsys):
    np.savez(tmp_path / "g.npz", features=np.eye(5), groups=[0, 0, 0, 1, 1])
    assert run(tmp_path / "g.npz", "--no-write") == 2
    assert "unequal groups, from 2 to 3 rows an image" in capsys.readouterr().err


def test_places_that_hold_nothing(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "recipe.toml").touch()
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'")
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 no archive")
    (tmp_path / "words.csv").write_text("a,b\n1,2\n3,x\n")
    (tmp_path / "photo.jpg").touch()
    np.savez(tmp_path / "two.npz", left=np.eye(3), right=np.eye(3))
    for word, said in (
        ("nothing.npy", "there is no file"), ("empty", "is empty"), ("runs", "did you mean"), ("torn.npy", "cannot be"),
        ("torn.npz", "cannot be read"), ("words.csv", "cannot be read"), ("photo.jpg", "of no known kind"),
        ("two.npz", "name the array of features 'features'"),
    ):  # fmt: skip
        assert run(tmp_path / word, "--no-write") == 2, word
        assert said in capsys.readouterr().err, word
    assert run("--no-write") == 2


def test_out_that_cannot_be_written(files, tmp_path, capsys):
    (tmp_path / "taken").touch()
    assert run(files / "flat.npy", "--out", tmp_path / "taken") == 2
    assert "is a file" in capsys.readouterr().err
    assert run(files / "flat.npy", "--out", "/proc/nowhere") == 2
    assert "annot write" in capsys.readouterr().err


def test_written_files_and_text(files, tmp_path, capsys):
    assert run(files / "flat.npy", files / "thin.npy", "--out", tmp_path / "out", "--definitions") == 0
    out = capsys.readouterr().out
    assert out.isascii()
    lines = [line for line in out.splitlines() if str(tmp_path.parent) not in line]  # paths may be of any length
    assert len(lines) > 40 and max(map(len, lines)) <= 120
    assert "auc_sigma" in out and "arXiv:2209.15007" in out and "collapse is high" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"diagnose.png", "diagnose.html", "diagnose.json"}
    assert (tmp_path / "out" / "diagnose.png").read_bytes()[:4] == b"\x89PNG"
    facts = json.loads((tmp_path / "out" / "diagnose.json").read_text())
    assert [len(one["spectrum"]["sigma"]) for one in facts["inputs"]] == [D, D]
