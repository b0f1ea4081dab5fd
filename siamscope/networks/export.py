"""A trained encoder as two files: `encoder.safetensors` (weights) and `encoder.json` (how to build and feed it).

Nothing is ever unpickled. Without this package, torchvision's net of the same name takes the weights of an exported
resnet18/34/50 of width 1 (with the ``cifar`` stem, first replace its conv1 and maxpool):

    net = torchvision.models.resnet18()
    net.fc = torch.nn.Identity()
    net.load_state_dict(safetensors.torch.load_file("encoder.safetensors"))
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

import siamscope
from siamscope.files import write_atomically
from siamscope.networks.backbone import Backbone, BackboneSpec
from siamscope.networks.build import create
from siamscope.networks.catalogue import ARCHITECTURES, FLAT, STEMS, TIMM_PREFIX, suggestion
from siamscope.networks.errors import NetworkError

KIND = "siamscope-encoder"
VERSION = 1
_DIGEST = "siamscope_weights_digest"
_OURS = (
    "kind",
    "version",
    "siamscope",
    "architecture",
    "width",
    "stem",
    "in_channels",
    "features",
    "feature_dim",
    "weights_digest",
)


def save_encoder(path_dir: str | Path, backbone: Backbone, meta: Mapping[str, Any]) -> tuple[Path, Path]:
    """Write the two files into a folder (made if missing) and return their paths: weights, description.

    Floating-point tensors are stored as float32. Each file is written beside its place, flushed to the device and
    renamed, so a failure leaves the earlier file whole; a digest in both tells if they are of different saves.

    Args:
        meta: `input_size` (pixels; the backbone's own by default), `mean` and `std` (one number a channel, for values
            in [0, 1]), and any further JSON values, which are kept as they are.

    Raises:
        NetworkError: meta is not JSON, overwrites a field of the architecture, or mean and std do not fit the channels.
        OSError: the folder cannot be written, or the device is full.
    """
    described = _describe(backbone, dict(meta))
    tensors = {name: _storable(t) for name, t in backbone.encoder().state_dict().items()}
    described["weights_digest"] = _digest(tensors)
    try:
        text = json.dumps(described, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise NetworkError(f"meta must hold JSON values only (text, finite numbers, lists, dicts): {error}") from error
    folder = Path(path_dir)
    folder.mkdir(parents=True, exist_ok=True)
    weights, description = folder / "encoder.safetensors", folder / "encoder.json"
    packed = to_safetensors(tensors, metadata={"format": "pt", _DIGEST: described["weights_digest"]})
    write_atomically(weights, lambda stream: stream.write(packed))
    write_atomically(description, lambda stream: stream.write(text.encode()))
    return weights, description


def load_encoder(path: str | Path, backbone: Backbone | None = None) -> tuple[Backbone, dict[str, Any]]:
    """The encoder in eval mode on the CPU, and everything its JSON says.

    Args:
        path: the folder, the .json or the .safetensors file; the other file lies beside it under the same name.
        backbone: an encoder to load into; needed only where a wrapped module was saved, which no file can rebuild.

    Raises:
        NetworkError: a file is missing, truncated, of another kind or another save; the architecture is unknown; or the
            names or shapes of the weights are not the architecture's.
    """
    weights, description = _pair(Path(path))
    meta = _read_json(description)
    tensors, digest = _read_tensors(weights)
    if digest is not None and meta.get("weights_digest") not in (None, digest):
        raise NetworkError(f"{weights} and {description} come from different saves; export the encoder again")
    built = _build(meta, description) if backbone is None else backbone
    _check_fit(built, tensors, weights)
    if any(t.is_meta for t in built.state_dict().values()):
        built.to_empty(device="cpu")
    built.encoder().load_state_dict(tensors)
    return built.eval(), meta


def _describe(backbone: Backbone, meta: dict[str, Any]) -> dict[str, Any]:
    reserved = sorted(set(meta) & {*_OURS, "normalisation"})
    if reserved:
        raise NetworkError(f"meta may not set {', '.join(reserved)}: the backbone itself says what it is")
    spec = backbone.spec
    mean, std = (_per_channel(field, meta.pop(field, None), spec.in_channels) for field in ("mean", "std"))
    if (mean is None) != (std is None) or (std is not None and min(std) <= 0):
        raise NetworkError(f"mean and std belong together, and std is positive; got mean={mean}, std={std}")
    side = meta.pop("input_size", spec.input_size)
    if spec.name in FLAT and side != spec.input_size:
        raise NetworkError(f"{spec.name} takes images of {spec.input_size} pixels only; meta says input_size={side!r}")
    return {
        "kind": KIND,
        "version": VERSION,
        "siamscope": siamscope.__version__,
        "architecture": spec.name,
        "width": spec.width,
        "stem": spec.stem,
        "in_channels": spec.in_channels,
        "features": spec.features,
        "feature_dim": backbone.feature_dim,
        "input_size": side,
        "normalisation": None if mean is None else {"mean": mean, "std": std},
        **meta,
    }


def _per_channel(field: str, values: Any, channels: int | None) -> list[float] | None:
    if values is None:
        return None
    numbers = [float(v) for v in values]
    if channels not in (None, len(numbers)) or not numbers or not all(map(math.isfinite, numbers)):
        raise NetworkError(
            f"meta[{field!r}] must hold one finite number for each of {channels} channels, got {numbers}"
        )
    return numbers


def _storable(tensor: Tensor) -> Tensor:
    """A contiguous copy on the CPU; channels_last weights become plain, half precision becomes float32."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(device="cpu", dtype=dtype, memory_format=torch.contiguous_format, copy=True).contiguous()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _pair(path: Path) -> tuple[Path, Path]:
    """Paths of weights and description from a folder or from either file."""
    if path.is_dir():
        path = path / "encoder.json"
    elif path.suffix not in (".json", ".safetensors"):
        raise NetworkError(f"{path} is neither a folder nor a .json or .safetensors file; give one of these")
    weights, description = path.with_suffix(".safetensors"), path.with_suffix(".json")
    for file in (description, weights):
        if not file.is_file():
            raise NetworkError(f"{file} is missing; an encoder is two files, {description.name} and {weights.name}")
    return weights, description


def _read_json(path: Path) -> dict[str, Any]:
    try:
        meta = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise NetworkError(
            f"{path} is not valid JSON ({error}); the file is damaged, export the encoder again"
        ) from error
    if not isinstance(meta, dict) or meta.get("kind") != KIND:
        raise NetworkError(f"{path} does not describe an encoder: its field 'kind' is not {KIND!r}")
    if meta.get("version") != VERSION:
        raise NetworkError(
            f"{path} has format version {meta.get('version')!r}, this package reads {VERSION}; update siamscope"
        )
    return meta


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, (file.metadata() or {}).get(_DIGEST)  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise NetworkError(f"{path} cannot be read as safetensors ({error}); it is truncated or damaged") from error


def _build(meta: dict[str, Any], path: Path) -> Backbone:
    name, stem = meta.get("architecture"), meta.get("stem")
    known = (*ARCHITECTURES, *FLAT)
    if not isinstance(name, str) or not (name in known or name.startswith(TIMM_PREFIX) or name == "custom"):
        raise NetworkError(f"{path}: unknown architecture {name!r}{suggestion(str(name), known)}")
    if name == "custom":
        raise NetworkError(
            f"{path} is of a wrapped module, which the file cannot rebuild; give it: load_encoder(path, backbone)"
        )
    if name in ARCHITECTURES and stem not in STEMS:
        raise NetworkError(f"{path}: unknown stem {stem!r}{suggestion(str(stem), STEMS)}")
    if name in FLAT and meta.get("input_size") is None:
        raise NetworkError(f"{path}: field 'input_size' is missing; {name} takes one image size only")
    features = 0 if meta.get("features", 0) == 0 else _number(meta, "features", path)  # older files do not say
    spec = BackboneSpec(name, _number(meta, "in_channels", path), _width(meta, path), stem, _size(meta, path), features)
    if name.startswith(TIMM_PREFIX):
        with torch.random.fork_rng(devices=[]):
            return _create(spec)
    # On the meta device nothing is allocated or drawn before the shapes are known to fit the file.
    with torch.device("meta"):
        try:
            return _create(spec)
        except (RuntimeError, TypeError, OverflowError) as error:  # numbers beyond any tensor's size
            raise NetworkError(f"{path} describes a network that cannot be built: {error}") from error


def _create(spec: BackboneSpec) -> Backbone:
    return create(
        spec.name,
        in_channels=spec.in_channels or 3,
        width=None if spec.name.startswith(TIMM_PREFIX) else spec.width,
        stem=spec.stem or "cifar",
        input_size=spec.input_size,
        features=spec.features,
    )


def _number(meta: dict[str, Any], field: str, path: Path) -> int:
    value = meta.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise NetworkError(f"{path}: field {field!r} must be a whole number of at least 1, got {value!r}")
    return value


def _size(meta: dict[str, Any], path: Path) -> int | None:
    return None if meta.get("input_size") is None else _number(meta, "input_size", path)


def _width(meta: dict[str, Any], path: Path) -> float:
    value = meta.get("width")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise NetworkError(f"{path}: field 'width' must be a number, got {value!r}")
    return float(value)


def _check_fit(backbone: Backbone, tensors: dict[str, Tensor], path: Path) -> None:
    """NetworkError unless names and shapes are exactly the architecture's; a partly loaded encoder is a wrong one."""
    wanted = {name: tuple(t.shape) for name, t in backbone.encoder().state_dict().items()}
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is not part of it" for name in tensors if name not in wanted]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in wanted.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise NetworkError(f"{path} does not fit {backbone.spec.name}: {'; '.join(problems[:3])}{more}")
