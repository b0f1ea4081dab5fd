"""Runs on tar files and on Parquet files that are not kept: resumed they are the runs that never stopped."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siamscope.data import DataError
from siamscope.rundir import RunDir, read_jsonl
from siamscope.training import checkpoint
from siamscope.training.loop import Loop
from siamscope.workflow.train import resume, train

COUNT = 48


class Stop(Exception):
    """Stands for a kill: leaves everything as it is on the disk."""


def jpegs() -> list[bytes]:
    out = []
    for k in range(COUNT):
        pixels = np.random.default_rng(k).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "jpeg")
        out.append(file.getvalue())
    return out


def tars(folder: Path) -> str:
    for shard in range(3):
        with tarfile.open(folder / f"t-{shard}.tar", "w") as archive:
            for k, content in list(enumerate(jpegs()))[shard::3]:
                info = tarfile.TarInfo(f"{k:03d}.jpg")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return str(folder / "t-{0..2}.tar")


def parquet(folder: Path) -> str:
    pytest.importorskip("datasets", reason="the library datasets (extra [hub]) is not installed")
    import pyarrow as pa
    from pyarrow import parquet as pq

    rows = [{"bytes": content, "path": None} for content in jpegs()]
    pq.write_table(pa.table({"image": rows}), folder / "set.parquet", row_group_size=6)
    return f"hf:{folder / 'set.parquet'}"


@pytest.mark.parametrize("source", [tars, parquet])
def test_resume_is_bit_equal(small, tmp_path, monkeypatch, source):
    """Killed after step 9 of 12, the last checkpoint after step 8: within the second pass of 5 steps of the stream."""
    monkeypatch.setenv("SIAMSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("siamscope.data.open_hub.MOST_REFERENCE", 16)  # what stands for a stream in figures
    data = {"source": source(tmp_path), "cache": "none", "window": 12, "size": 16}
    data |= {"samples": 0, "val_samples": 8, "test_samples": 0}
    recipe = small(
        data=data, network={"backbone": "mlp", "width": 0.25}, monitor={"interval": 6, "bank": 8, "watch": -1},
        train={"steps": 12, "checkpoint_steps": 4, "batch_size": 8}, order={"name": "stream"},
    )  # fmt: skip
    train(recipe, tmp_path / "whole")
    assert json.loads((tmp_path / "whole" / "environment.json").read_text())["train_images"] == COUNT - 8
    flush = Loop.flush

    def dying(self, received):
        if self.pending and self.pending[-1][0] == 10:
            raise Stop
        return flush(self, received)

    monkeypatch.setattr(Loop, "flush", dying)
    with pytest.raises(Stop):
        train(recipe, tmp_path / "cut")
    monkeypatch.setattr(Loop, "flush", flush)
    assert resume(tmp_path / "cut").step == 12
    told = [
        [(line["step"], line["loss"]) for line in read_jsonl(RunDir(tmp_path / run).metrics) if line["kind"] == "step"]
        for run in ("whole", "cut")
    ]
    assert len(told[0]) == 12 and told[0] == told[1]
    whole, cut = (
        torch.load(checkpoint.numbered(RunDir(tmp_path / run))[-1], weights_only=True)["model"]
        for run in ("whole", "cut")
    )
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    iid = small(data=data, train={"steps": 4, "batch_size": 8})
    if source is parquet:
        with pytest.raises(DataError, match=r"take order.name 'stream' instead of 'iid'"):
            train(iid, tmp_path / "iid")
    else:
        assert train(iid, tmp_path / "iid").step == 4  # what a tar holds can be read in any order


def test_replay_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setenv("SIAMSCOPE_CACHE", str(tmp_path / "cache"))
    data = {"source": tars(tmp_path), "size": 16, "samples": 0, "val_samples": 8, "test_samples": 0}
    recipe = small(data=data, train={"steps": 4, "batch_size": 8}, order={"name": "stream", "replay": 0.25})
    with pytest.raises(DataError, match=r"order.replay draws from earlier images"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
