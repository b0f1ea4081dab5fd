"""The overview picture: from full runs and from those that lack parts."""

import numpy as np
import pytest
from PIL import Image

from siamscope.report import ReportError, overview
from siamscope.report.figure import mosaic


def test_mosaic_places_every_image():
    block = np.arange(2 * 3 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 3, 4, 4)
    canvas = mosaic(block, gap=1)
    assert canvas.shape == (9, 14, 3)
    assert np.array_equal(canvas[5:9, 10:14], block[1, 2].transpose(1, 2, 0))
    assert (canvas[4] == 255).all()
    assert np.array_equal(mosaic(block[:, :, :1])[0, 0], [0, 0, 0])


def test_a_run_with_nothing_but_a_recipe(tmp_path):
    (tmp_path / "recipe.toml").write_text("")
    (tmp_path / "metrics.jsonl").write_text('{"kind":"monitor","step":0,"feature_effective_rank":3.0}\n')
    with Image.open(overview(tmp_path, tmp_path / "deep" / "picture.png", dpi=50)) as image:
        assert image.size == (575, 170)


def test_errors(tmp_path):
    with pytest.raises(ReportError, match="does not exist"):
        overview(tmp_path / "nowhere", tmp_path / "x.png")
    (tmp_path / "recipe.toml").write_text("")
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match="Cannot write"):
        overview(tmp_path, tmp_path / "file" / "x.png")
