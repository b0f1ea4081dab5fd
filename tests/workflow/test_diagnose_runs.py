"""`siamscope diagnose` on networks, and the label-free scores that every run's judgement holds."""

import importlib.util
import json
import shutil
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from siamscope import cli, collapse, networks
from siamscope.collapse.health import Vitals, assess
from siamscope.data import open_dataset
from siamscope.networks.pretrained import pretrained
from siamscope.training.progress import Silent
from siamscope.workflow import facts
from siamscope.workflow.diagnose import images, nets
from siamscope.workflow.diagnose.loaded import Ask, DiagnoseError, Loaded
from siamscope.workflow.diagnose.verdict import judge

SMALL = [
    "--size", "16", "--samples", "96", "--data.val-samples", "64", "--data.test-samples", "32", "--width", "0.5",
    "--method.projector.hidden", "32", "--method.projector.out", "16", "--method.predictor-head.hidden", "8",
    "--batch-size", "32", "--steps", "4", "--precision", "fp32", "--train.channels-last", "off", "--device", "cpu",
    "--train.checkpoint-steps", "2", "--monitor.samples", "32", "--monitor.bank", "32", "--evaluation.no-probe",
]  # fmt: skip


def siamscope(*words) -> int:
    return cli.run([str(word) for word in words])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "run"
    assert siamscope("train", "shapes", "--out", out, *SMALL, "--quiet") == 0
    return out


@pytest.fixture
def copy(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    return tmp_path / "copy"


def diagnosed(capsys, *words):
    capsys.readouterr()
    assert siamscope("diagnose", *words, "--json", "--no-write", "--interval", "none") == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *words):
    capsys.readouterr()
    assert siamscope("diagnose", *words, "--no-write", "--quiet") == 2
    return capsys.readouterr().err


# ------------------------------------------------------------------------------------------ the judgement's scores


def test_judgement_holds_scores_of_trained_and_untrained_and_facts_reads_them(run):
    found = json.loads((run / "evaluation.json").read_text())
    assert set(found["scores"]) == set(found["scores_untrained"])
    assert set(found["scores"]) <= set(collapse.DEFINITIONS)
    assert {"auc_sigma", "rankme", "lidar", "alignment", "uniformity", "embedding_std"} <= set(found["scores"])
    assert (found["scored"]["n"], found["scored"]["d"], found["scored"]["split"]) == (64, 32, "validation")
    assert found["scored"]["views"] == {"images": 64, "per_image": 8}
    assert len(found["spectrum"]) == 32
    assert collapse.auc(np.array(found["spectrum"])) == pytest.approx(found["scores"]["auc_sigma"], abs=1e-5)
    assert (found["scored"]["rankme_eps"], found["scored"]["alpha_range"]) == (1e-7, [11, 100])
    assert found["scored"]["lidar_delta"] == 1e-4 and len(found["scored"]["transform_hash"]) == 16
    read = facts.read(run)
    assert (read.n, read.d) == (64, 32)
    assert read.scores["auc_sigma"] == found["scores"]["auc_sigma"]
    assert "loss" in read.scores


def test_diagnose_of_a_run_finds_the_scores_of_its_judgement(run, capsys):
    """Same images, same convention, another way to the weights: by the checkpoint."""
    (one,) = diagnosed(capsys, run)["inputs"]
    judged = json.loads((run / "evaluation.json").read_text())
    for name in ("auc_sigma", "auc_lambda", "effective_rank", "rankme", "nesum", "self_cluster", "embedding_std"):
        assert one["scores"][name]["value"] == pytest.approx(judged["scores"][name], rel=1e-5), name
        assert one["untrained"][name] == pytest.approx(judged["scores_untrained"][name], rel=1e-5), name
    about = one["about"]
    assert (about["split"], about["step"], about["augmented"], about["kind"]) == ("validation", 4, False, "run")
    assert len(about["transform_hash"]) == len(about["weights_hash"]) == 16
    assert one["verdict"]["status"] == "too early"  # 4 steps


# ------------------------------------------------------------------------------------------ kinds of input


def test_run_checkpoint_and_encoder_are_one_network(run, capsys):
    last = sorted((run / "checkpoints").glob("step-*.pt"))
    data = ("--data", "shapes", "--split", "validation", "--samples", "100")
    words = (run, last[-1], run / "encoder.safetensors", last[0])
    found = diagnosed(capsys, *words, *data)
    hashes = [one["about"]["weights_hash"] for one in found["inputs"]]
    assert hashes[0] == hashes[1] == hashes[2] != hashes[3]
    ranks = [one["scores"]["effective_rank"]["value"] for one in found["inputs"]]
    assert ranks[0] == pytest.approx(ranks[1], rel=1e-6) == pytest.approx(ranks[2], rel=1e-6)
    assert ranks[3] != pytest.approx(ranks[0], rel=1e-6)
    assert [one["n"] for one in found["inputs"]] == [100] * 4
    assert found["warnings"] == []


def test_all_images_of_other_data_by_default(run, tmp_path, capsys):
    np.save(tmp_path / "photos.npy", np.random.default_rng(0).integers(0, 256, (50, 16, 16, 3), dtype=np.uint8))
    (one,) = diagnosed(capsys, run, "--data", tmp_path / "photos.npy")["inputs"]
    assert (one["n"], one["about"]["split"], one["about"]["data"]) == (50, "all", "photos.npy")


def test_embeddings_and_views(run, capsys):
    (one,) = diagnosed(capsys, run, "--embeddings", "--views", "3", "--view-images", "20")["inputs"]
    assert (one["d"], one["about"]["layer"]) == (16, "projector's output")
    assert one["conventions"]["views"] == [20, 3, 16]
    assert 1 <= one["scores"]["lidar"]["value"] <= 16
    assert 0 < one["scores"]["alignment"]["value"] < 4
    other = diagnosed(capsys, run, "--views", "3", "--view-images", "20")["inputs"][0]
    assert other["conventions"]["views"] == [20, 3, 32]
    assert "lidar" not in diagnosed(capsys, run)["inputs"][0]["scores"]


def test_nothing_of_the_network_is_changed(run):
    """Neither weights nor running statistics; a pass in train mode, the control, does change them."""
    net, dataset = nets.of_run(run, Silent())
    net.backbone.train()
    before = net.weights
    images.load("run", net, dataset, Ask(views=2, view_images=16), Silent())
    assert net.weights == before
    assert net.backbone.training  # as it was
    net.backbone(torch.rand(8, 3, 16, 16))
    assert net.weights != before


def test_images_are_not_augmented_and_features_are_pooled(run):
    """Twice the same features, and those of the exported encoder on the plainly normalised images."""
    net, dataset = nets.of_run(run, Silent())
    first, second = (images.load("run", net, dataset, Ask(), Silent()).features for _ in range(2))
    np.testing.assert_array_equal(first, second)
    encoder, meta = networks.load_encoder(run)
    assert dataset is None and net.data is not None
    val = open_dataset(net.data).val
    raw = torch.from_numpy(val.read(np.arange(len(val)))).float() / 255
    mean, std = (torch.tensor(meta["normalisation"][k]).view(1, -1, 1, 1) for k in ("mean", "std"))
    with torch.no_grad():
        expected = encoder((raw - mean) / std).numpy()
    np.testing.assert_allclose(first, expected, atol=1e-5)


def test_an_unfinished_run_is_read_at_its_last_checkpoint(copy, capsys):
    for name in ("evaluation.json", "encoder.json", "encoder.safetensors"):
        (copy / name).unlink()
    *_, before, last = sorted((copy / "checkpoints").glob("step-*.pt"))
    last.write_bytes(b"torn")
    step = int(before.stem.removeprefix("step-"))
    (one,) = diagnosed(capsys, copy)["inputs"]
    assert one["about"]["step"] == step < 4
    assert any(f"not finished: these are its weights after step {step}" in note for note in one["notes"])
    assert any("truncated or damaged" in note for note in one["notes"])


def test_a_run_without_checkpoints_is_read_by_its_encoder(copy, capsys):
    whole = diagnosed(capsys, copy)["inputs"][0]
    shutil.rmtree(copy / "checkpoints")
    (one,) = diagnosed(capsys, copy)["inputs"]
    assert one["scores"]["auc_sigma"]["value"] == pytest.approx(whole["scores"]["auc_sigma"]["value"], rel=1e-6)
    assert one["embeddings"] is None and whole["embeddings"]["d"] == 16
    assert "has no projector" in refused(capsys, copy, "--embeddings")
    for name in ("encoder.json", "encoder.safetensors"):
        (copy / name).unlink()
    assert "neither a checkpoint nor an encoder" in refused(capsys, copy)


def test_changed_images_are_told(copy, capsys):
    known = json.loads((copy / "environment.json").read_text())
    (copy / "environment.json").write_text(json.dumps(known | {"data_fingerprint": "other"}))
    (one,) = diagnosed(capsys, copy)["inputs"]
    assert any("have changed since the run" in note for note in one["notes"])


def test_what_is_refused(run, copy, tmp_path, capsys):
    assert "give --data" in refused(capsys, run / "encoder.safetensors")
    assert "no projector" in refused(capsys, run / "encoder.json", "--data", "shapes", "--embeddings")
    torn = copy / "checkpoints" / "step-00000004.pt"
    torn.write_bytes(torn.read_bytes()[:1000])
    assert "truncated or damaged" in refused(capsys, torn)
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    assert "not a checkpoint of this version" in refused(capsys, tmp_path / "other.pt")
    np.save(tmp_path / "rgb.npy", np.random.default_rng(0).integers(0, 256, (9, 16, 16, 3), dtype=np.uint8))
    assert "no test split" in refused(capsys, run, "--data", tmp_path / "rgb.npy", "--split", "test")
    assert "there is no folder or file" in refused(capsys, run, "--data", tmp_path / "nowhere")


# ------------------------------------------------------------------------------------------ verdict


def test_features_alone_are_judged_by_their_rank():
    thin = Vitals(0.9, 2.0, 0.99, 1000, 32)
    shrunken = Vitals(0.1, 20.0, 0.7, 1000, 32)
    assert assess(None, thin).status == "collapse"
    assert assess(None, shrunken).status == "healthy"  # a large common part is usual after a ReLU
    assert assess(shrunken).status == "collapse"  # of embeddings it is not
    assert "backbone features vary along 20.0" in assess(None, shrunken).reasons[0]
    with pytest.raises(collapse.CollapseError, match="nothing to assess"):
        assess(None)


def test_the_history_of_a_run_adds_a_note():
    card = collapse.diagnose(np.random.default_rng(0).normal(size=(400, 8)), interval="none")
    course = tuple(
        {"step": step, "feature_effective_rank": rank} for step, rank in ((0, 90.0), (100, 20.0), (200, 8.0))
    )
    loaded = Loaded("x", None, about={"kind": "run"}, steps=200, course=course)
    notes = judge(loaded, card, None, None).notes
    assert any("20.0 at step 100 and 8.0 at the last" in note for note in notes)
    steady = replace(loaded, course=course[:2])
    assert not any("at the last" in note for note in judge(steady, card, None, None).notes)
    lost = judge(loaded, card, None, replace(card.vitals, effective_rank=30.0))
    assert lost.status == "partial collapse" and "training lost directions" in lost.reasons[0]


# ------------------------------------------------------------------------------------------ timm


def test_timm_missing_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install 'siamscope[timm]'" in refused(capsys, "timm:resnet18", "--data", "shapes")


def test_a_pretrained_model_of_timm_is_fed_as_timm_says(monkeypatch, capsys):
    """A stand-in for timm with a model of two features: mean and deviation of the image."""

    class Two(nn.Module):
        def forward(self, x):
            return torch.stack([x.mean((1, 2, 3)), x.flatten(1).std(1), x[:, 0, 0, 0]], dim=1)

    config = types.SimpleNamespace(has_weights=True, input_size=(3, 24, 24), mean=(0.5,) * 3, std=(0.25,) * 3)
    fake = types.ModuleType("timm")
    fake.is_model = lambda name: name == "two"
    fake.list_models = lambda **_: ["two"]
    fake.get_pretrained_cfg = lambda name: config
    asked = {}

    def create_model(name, **options):
        asked.update(options)
        return Two()

    fake.create_model = create_model
    monkeypatch.setitem(sys.modules, "timm", fake)
    found = pretrained("timm:two")
    assert (found.size, found.mean, found.std) == (24, (0.5,) * 3, (0.25,) * 3)
    assert asked == {"pretrained": True, "num_classes": 0}
    (one,) = diagnosed(capsys, "timm:two", "--data", "shapes", "--samples", "50")["inputs"]
    assert (one["n"], one["d"], one["about"]["kind"]) == (50, 3, "timm")
    assert "did you mean 'two'" in refused(capsys, "timm:tow", "--data", "shapes")
    config.has_weights = False
    with pytest.raises(networks.NetworkError, match="no weights"):
        pretrained("timm:two")


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
def test_timm_itself_knows_the_names(monkeypatch):
    with pytest.raises(networks.NetworkError, match="did you mean 'resnet10t'"):
        pretrained("timm:resnet10x")


def test_errors_are_of_one_kind():
    assert issubclass(DiagnoseError, ValueError)
    assert DiagnoseError.__module__.startswith("siamscope.")  # so that the command line prints it
