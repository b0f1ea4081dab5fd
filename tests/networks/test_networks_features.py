"""A number of features of one's own: the same dimension whatever the width, exported and loaded with the rest."""

import json

import pytest
import torch

from siamscope import networks


@pytest.mark.parametrize("name", ["resnet8", "resnet50"])
@pytest.mark.parametrize("width", [0.25, 1.0])
def test_the_width_does_not_change_the_features(name, width):
    torch.manual_seed(0)
    plain = networks.create(name, width=width, in_channels=1)
    torch.manual_seed(0)
    backbone = networks.create(name, width=width, in_channels=1, features=40)
    assert backbone.feature_dim == 40 != plain.feature_dim
    x = torch.rand(3, 1, 16, 16)
    assert backbone(x).shape == (3, 40)
    assert backbone.feature_map(x).shape == (3, 40, *plain.feature_map(x).shape[2:])
    more = sum(p.numel() for p in backbone.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == plain.feature_dim * 40 + 2 * 40  # the convolution has no bias, batch norm has two


def test_the_features_are_the_convolution_of_the_map_by_hand():
    torch.manual_seed(0)
    backbone = networks.create("resnet8", width=0.5, features=5, zero_init_residual=False).eval()
    x = torch.rand(4, 3, 16, 16)
    kernel = backbone.to_features[0].weight[:, :, 0, 0]
    before = backbone.relu(backbone.bn1(backbone.conv1(x)))
    for name in backbone.stage_names:
        before = getattr(backbone, name)(before)
    expected = torch.einsum("fc,bchw->bfhw", kernel, before).div((1 + 1e-5) ** 0.5).relu().mean(dim=(2, 3))
    torch.testing.assert_close(backbone(x), expected)
    assert (backbone(x) != torch.einsum("fc,bc->bf", kernel, before.mean(dim=(2, 3)))).any()  # not after the pooling


def test_names_without_features_stay_torchvisions():
    assert not [name for name in networks.create("resnet8").state_dict() if "features" in name]


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_flat_nets_change_their_last_layer(name):
    backbone = networks.create(name, in_channels=1, input_size=8, width=0.5, features=7)
    assert backbone(torch.rand(3, 1, 8, 8)).shape == (3, 7)


@pytest.mark.parametrize("options", [{"name": "resnet8", "width": 0.25}, {"name": "mlp", "input_size": 16}])
def test_an_exported_encoder_remembers(tmp_path, options):
    backbone = networks.create(**options, features=24).eval()
    networks.save_encoder(tmp_path, backbone, {})
    loaded, meta = networks.load_encoder(tmp_path)
    assert meta["features"] == loaded.spec.features == loaded.feature_dim == 24
    x = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(x), backbone(x))


def test_files_of_earlier_versions_have_none(tmp_path):
    networks.save_encoder(tmp_path, networks.create("resnet8", width=0.25), {})
    description = tmp_path / "encoder.json"
    meta = json.loads(description.read_text())
    del meta["features"]
    description.write_text(json.dumps(meta))
    assert networks.load_encoder(tmp_path)[0].feature_dim == 16
    for wrong in (-1, "8", True):
        description.write_text(json.dumps(meta | {"features": wrong}))
        with pytest.raises(networks.NetworkError, match="features"):
            networks.load_encoder(tmp_path)


def test_refused():
    with pytest.raises(networks.NetworkError, match="at least 1, or 0"):
        networks.create("resnet8", features=-1)
    with pytest.raises(networks.NetworkError, match="leave features out"):
        networks.create("timm:resnet18", features=8)
