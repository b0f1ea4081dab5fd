"""Exported encoders: round trip, what the files hold, and every way they can be wrong."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from siamscope import networks

META = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1], "input_size": 32, "method": "simsiam", "knn": 0.5}


def trained(name="resnet8", **options):
    """A backbone whose buffers and zero-initialised weights have moved."""
    torch.manual_seed(1)
    backbone = networks.create(name, **options)
    with torch.no_grad():
        for p in backbone.parameters():
            p.add_(0.05 * torch.randn_like(p))
        backbone(torch.randn(8, backbone.spec.in_channels, 16, 16) * 2 + 1)
    return backbone.eval()


@pytest.fixture
def saved(tmp_path):
    networks.save_encoder(tmp_path, trained(), META)
    return tmp_path


def edit(path, **changes):
    description = path / "encoder.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | changes))


@pytest.mark.parametrize(
    "options",
    [
        {"name": "resnet8"},
        {"name": "resnet20", "width": 0.5, "in_channels": 1, "stem": "imagenet"},
        {"name": "resnet50", "width": 0.25, "stem": "cifar-pad2", "in_channels": 4, "input_size": 28},
    ],
)
def test_round_trip_gives_the_same_features(tmp_path, options):
    backbone = trained(**options)
    networks.save_encoder(tmp_path / "new" / "folder", backbone, {})
    rng = torch.get_rng_state()
    for path in ("", "encoder.json", "encoder.safetensors"):
        loaded, meta = networks.load_encoder(tmp_path / "new" / "folder" / path)
        x = torch.randn(3, backbone.spec.in_channels, 20, 20, generator=torch.Generator().manual_seed(0))
        assert torch.equal(loaded(x), backbone(x))
        assert not loaded.training and loaded.spec == backbone.spec
        assert meta["feature_dim"] == loaded.feature_dim == backbone.feature_dim
    assert torch.equal(torch.get_rng_state(), rng)


def test_description_says_how_to_use_the_encoder(saved):
    _, meta = networks.load_encoder(saved)
    assert meta["normalisation"] == {"mean": META["mean"], "std": META["std"]}
    assert {k: meta[k] for k in ("architecture", "width", "stem", "in_channels", "feature_dim", "input_size")} == {
        "architecture": "resnet8",
        "width": 1.0,
        "stem": "cifar",
        "in_channels": 3,
        "feature_dim": 64,
        "input_size": 32,
    }
    assert meta["siamscope"] == "0.1.0" and meta["method"] == "simsiam" and meta["knn"] == 0.5


def test_weights_are_plain_float32(tmp_path):
    backbone = trained().to(memory_format=torch.channels_last).bfloat16()
    weights, _ = networks.save_encoder(tmp_path, backbone, {})
    tensors = load_file(weights)
    assert tensors.keys() == backbone.state_dict().keys()
    assert {t.dtype for t in tensors.values()} == {torch.float32, torch.int64}
    assert torch.equal(tensors["conv1.weight"], backbone.conv1.weight.float())
    assert tensors["bn1.num_batches_tracked"].item() == 1


def test_plain_torchvision_takes_the_weights(tmp_path):
    try:
        from torchvision.models import resnet18
    except Exception as error:
        pytest.skip(f"torchvision does not import: {error}")
    backbone = trained("resnet18", stem="imagenet")
    weights, _ = networks.save_encoder(tmp_path, backbone, {})
    net = resnet18().eval()
    net.fc = nn.Identity()
    net.load_state_dict(load_file(weights))
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net(x), backbone(x), rtol=1e-5, atol=1e-5)


def test_wrapped_modules_export_their_own_names_and_load_into_a_given_one(tmp_path):
    make = lambda: nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))  # noqa: E731
    backbone = networks.wrap(make(), input_shape=(3, 4, 4)).eval()
    weights, _ = networks.save_encoder(tmp_path, backbone, {})
    assert "0.weight" in load_file(weights)
    with pytest.raises(networks.NetworkError, match=r"load_encoder\(path, backbone\)"):
        networks.load_encoder(tmp_path)
    loaded, _ = networks.load_encoder(tmp_path, networks.wrap(make(), 5))
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(loaded(x), backbone(x))


def test_saving_again_replaces_both_files_and_leaves_no_others(saved):
    other = trained("resnet20")
    networks.save_encoder(saved, other, {})
    loaded, meta = networks.load_encoder(saved)
    assert meta["architecture"] == "resnet20" and torch.equal(loaded.conv1.weight, other.conv1.weight)
    assert sorted(p.name for p in saved.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_a_failed_save_keeps_the_earlier_files(saved, monkeypatch):
    before = {p.name: p.read_bytes() for p in saved.iterdir()}

    def no_space(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        networks.save_encoder(saved, trained("resnet20"), {})
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == before


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"mean": [0.5] * 2, "std": [0.2] * 2}, "one finite number for each of 3 channels"),
        ({"mean": [0.5] * 3}, "belong together"),
        ({"mean": [0.5] * 3, "std": [0.2, 0.0, 0.2]}, "std is positive"),
        ({"width": 2}, "may not set width"),
        ({"loss": float("nan")}, "JSON values only"),
        ({"model": object()}, "JSON values only"),
    ],
)
def test_bad_meta_is_refused_before_anything_is_written(tmp_path, meta, message):
    with pytest.raises(networks.NetworkError, match=message):
        networks.save_encoder(tmp_path / "out", trained(), meta)
    assert not (tmp_path / "out").exists()


def test_missing_files(saved, tmp_path):
    with pytest.raises(networks.NetworkError, match=r"nowhere\.json is missing"):
        networks.load_encoder(tmp_path / "nowhere.json")
    with pytest.raises(networks.NetworkError, match="neither a folder nor"):
        networks.load_encoder(tmp_path / "encoder.pt")
    (saved / "encoder.safetensors").unlink()
    with pytest.raises(networks.NetworkError, match=r"encoder\.safetensors is missing; an encoder is two files"):
        networks.load_encoder(saved)


@pytest.mark.parametrize("keep", [0, 4, 100, 5000, -1])
def test_truncated_weights(saved, keep):
    weights = saved / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(networks.NetworkError, match="truncated or damaged"):
        networks.load_encoder(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "recipe"}, "does not describe an encoder"),
        ({"version": 99}, "format version 99, this package reads 1"),
        ({"architecture": "resnet9"}, "unknown architecture 'resnet9'; did you mean 'resnet"),
        ({"architecture": None}, "unknown architecture None"),
        ({"stem": "cfar"}, "unknown stem 'cfar'; did you mean 'cifar'"),
        ({"width": "wide"}, "'width' must be a number"),
        ({"width": -1}, "width must be a positive number"),
        ({"in_channels": 0}, "'in_channels' must be a whole number"),
        ({"input_size": 1.5}, "'input_size' must be a whole number"),
        ({"architecture": "resnet20"}, r"does not fit resnet20: layer1\.1\.conv1\.weight is missing"),
        ({"width": 1e5}, r"does not fit resnet8: conv1\.weight has shape \(16, 3, 3, 3\), not \(1600000,"),
        ({"width": 1e300}, "cannot be built"),
        ({"in_channels": 10**30}, "cannot be built"),
        ({"in_channels": 1}, r"conv1\.weight has shape \(16, 3, 3, 3\), not \(16, 1, 3, 3\)"),
        ({"weights_digest": "0"}, "different saves"),
    ],
)
def test_descriptions_that_do_not_hold(saved, changes, message):
    edit(saved, **changes)
    with pytest.raises(networks.NetworkError, match=message):
        networks.load_encoder(saved)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", "[" * 100_000])
def test_json_that_is_none(saved, text):
    (saved / "encoder.json").write_text(text)
    with pytest.raises(networks.NetworkError, match=r"not valid JSON|does not describe an encoder"):
        networks.load_encoder(saved)


def test_extra_weights_are_refused(saved):
    weights = saved / "encoder.safetensors"
    save_file(load_file(weights) | {"fc.weight": torch.zeros(1)}, weights)
    with pytest.raises(networks.NetworkError, match=r"fc\.weight is not part of it"):
        networks.load_encoder(saved)
