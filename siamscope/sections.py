"""The sections of a recipe as frozen dataclasses: views, order, network, optimiser, training, monitor, evaluation.

The section `method` is a row of the table (`siamscope.row`), and `data` belongs to `siamscope.data.config`. Ranges are
checked by `siamscope.recipe.validate`. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from tyro.conf import arg

T = TypeVar("T")
OnCollapse = Literal["warn", "stop", "rollback"]


def _range(default: T, low: float | None = None, high: float | None = None) -> T:
    """A field with a closed range that `validate` checks."""
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True)
class ViewsConfig:
    """The random views of an image."""

    policy: Annotated[str, arg(aliases=("--policy",))] = "simsiam"
    """Named policy: simclr, mocov2, byol, simsiam, barlow, vicreg, dino, swav, unigrad, ..."""
    size: int = _range(0, 0, 1024)
    """Side of a view in pixels; 0 = as the data."""
    colour: Literal["exact", "fast"] = "exact"
    """Colour jitter as torchvision defines it, or fused into one matrix per image (several times faster)."""
    crop_min: float = _range(0.0, 0, 1)
    """Smallest share of the area that a crop may have; 0 = as the policy."""
    local_crops: Annotated[int, arg(aliases=("--local-crops",))] = _range(0, 0, 64)
    """Small further crops of every image (multi-crop); they have no target and never enter statistics."""
    local_size: int = _range(0, 0, 1024)
    """Side of a local crop in pixels; 0 = about 0.43 of a view's."""
    local_min: float = _range(0.05, 1e-4, 1)
    """Smallest share of the area that a local crop may have."""
    local_max: float = _range(0.4, 1e-4, 1)
    """Largest share of the area that a local crop may have."""
    cutmix: Annotated[float, arg(aliases=("--cutmix",))] = _range(0.0, 0, 1)
    """Probability that a step pastes a box of another image into the online views (CutMix), not the target's."""
    cutmix_alpha: float = _range(1.0, 1e-3)
    """CutMix: Beta(alpha, alpha) draws the share of the image that is kept."""


@dataclass(frozen=True)
class OrderConfig:
    """In which order the training images are presented; the number of steps is the same whatever it is."""

    name: Annotated[Literal["iid", "current", "cumulative", "last", "hybrid", "stream"], arg(aliases=("--order",))] = (
        "iid"
    )
    """iid: every epoch a fresh permutation of all. current: one chunk after another, never seen again (single pass).
    cumulative: all chunks so far. last: the last chunk only, a fixed subset. hybrid: current, then iid. stream: images
    that never end (shapes, or a folder that grows); tar files and data sets of hf: nearly as they lie (data.window)."""
    chunks: int = _range(100, 1)
    """Chunks that a pass over the images is cut into. stream: equal parts of the run; a folder is listed at each."""
    rounds: int = _range(1, 1)
    """current, cumulative, hybrid: passes over all chunks that a whole run would make (hybrid: before its switch it
    comes as far as `current` does)."""
    subset: float = _range(0.0, 0, 1)
    """last: share of the images in the subset; 0 = one chunk. Subsets of one seed are nested."""
    switch: float = _range(0.4, 0, 1)
    """hybrid: share of the steps before the switch to iid."""
    replay: float = _range(0.0, 0, 1)
    """current, hybrid (before its switch), stream: share of every batch that is drawn from images of earlier chunks."""
    buffer: int = _range(0, 0)
    """Earlier images to draw from, a uniform sample of those seen; 0 = all."""
    shift: Literal["none", "class", "domain"] = "none"
    """Whether chunks follow the classes or the domains (DOMAIN/CLASS/ folders, data.domains) in the order of their
    names, so that the distribution shifts. Chunks stay of one size: a boundary may fall within a class."""


@dataclass(frozen=True)
class NetworkConfig:
    """The encoder that is trained and exported."""

    backbone: Annotated[str, arg(aliases=("--backbone",))] = "resnet8"
    """resnet8, resnet18, resnet20, resnet34, resnet50, linear or mlp (flattened pixels), or timm:NAME (extra)."""
    width: Annotated[float, arg(aliases=("--width",))] = _range(1.0, 0.05, 16)
    """Multiplier on the number of channels (linear: of 64 features; mlp: of 256 hidden units and 128 features)."""
    stem: Literal["cifar", "cifar-pad2", "imagenet"] = "cifar"
    """First layers: for small images (3x3, stride 1), or for large ones (7x7, stride 2, max-pool)."""
    features: int = _range(0, 0)
    """Dimensions of the features whatever the width, so that spectra of unlike widths can be compared: a ResNet gets a
    1x1 convolution, batch norm and ReLU to so many channels before its pooling. 0 = as the backbone."""
    zero_init_residual: bool = True
    """Start every residual branch at zero."""


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule; the rate follows a cosine per step after a linear warm-up."""

    name: Annotated[Literal["sgd", "lars", "adamw"], arg(aliases=("--optimiser",))] = "sgd"
    """Optimiser."""
    lr: Annotated[float, arg(aliases=("--lr",))] = _range(0.06, 0)
    """Base learning rate, for 256 images a step when `lr_scaling` is on."""
    lr_scaling: bool = True
    """Multiply the rate by batch size / 256."""
    momentum: float = _range(0.9, 0, 1)
    """Momentum of SGD and LARS; the first beta of AdamW."""
    weight_decay: Annotated[float, arg(aliases=("--weight-decay",))] = _range(5e-4, 0)
    """Weight decay (SGD: see `decay`; LARS: coupled; AdamW: decoupled, times the rate)."""
    decay: Literal["coupled", "per-step"] = "coupled"
    """SGD: add weight_decay * w to the gradient, as torch does, or shrink w by that share at every step, whatever rate
    and momentum are (the decay of a step, written with a bar in the DirectPred paper; the released code couples)."""
    predictor_lr: float = _range(1.0, 0)
    """Rate of the predictor as a share of the encoder's: alpha_p in the theory."""
    predictor_weight_decay: float = _range(-1.0, -1)
    """Weight decay of the predictor; -1 = that of the encoder."""
    exclude_norm_and_bias: bool = False
    """Leave biases and normalisation parameters out of weight decay (and of LARS's adaptation)."""
    norm_and_bias_lr: float = _range(1.0, 0)
    """Rate of biases and normalisation parameters, as a share of the others', when they are excluded (Barlow Twins)."""
    warmup_epochs: float = _range(0.0, 0)
    """Epochs of linear warm-up from zero."""
    final_lr: float = _range(0.0, 0, 1)
    """Rate at the last step, as a share of the base rate."""
    constant_predictor_lr: bool = False
    """Keep the predictor's rate constant (SimSiam)."""
    clip_norm: float = _range(0.0, 0)
    """Clip the gradient's norm; 0 = no clipping."""
    trust: float = _range(0.001, 0)
    """Trust coefficient of LARS."""


@dataclass(frozen=True)
class TrainConfig:
    """Length, batch, seed and machine."""

    epochs: Annotated[float, arg(aliases=("--epochs",))] = _range(20.0, 0)
    """Passes over the training images."""
    steps: Annotated[int, arg(aliases=("--steps",))] = _range(0, 0)
    """Optimiser steps; 0 = from `epochs`."""
    batch_size: Annotated[int, arg(aliases=("--batch-size",))] = _range(256, 2)
    """Images an optimiser step, over all processes together."""
    accumulate: int = _range(1, 1)
    """Split the batch into this many parts, one after another (batch norm, negatives and statistics see
    one part; predictors set from statistics count parts as steps)."""
    seed: Annotated[int, arg(aliases=("--seed",))] = _range(0, 0, 2**31 - 1)
    """Seed of weights, order and views."""
    device: Annotated[str, arg(aliases=("--device",))] = "auto"
    """auto, cpu, cuda or cuda:N."""
    precision: Annotated[Literal["auto", "fp32", "bf16"], arg(aliases=("--precision",))] = "auto"
    """Autocast precision; auto = what a short timed probe finds fastest on this machine."""
    channels_last: Literal["auto", "on", "off"] = "auto"
    """Memory format of the backbone; auto = by the same probe."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the step; auto = if it is faster here and the run long enough for the time of compiling to come back."""
    deterministic: bool = False
    """Refuse operations that are not deterministic (slower on a GPU)."""
    threads: int = _range(0, 0)
    """Threads of the computation on a CPU; 0 = torch's choice."""
    checkpoint_minutes: float = _range(2.0, 0)
    """Minutes between checkpoints."""
    checkpoint_steps: int = _range(0, 0)
    """Steps between checkpoints beside that; 0 = by time only."""
    keep: int = _range(2, 1)
    """How many of the last checkpoints are kept (the best is kept beside them)."""


@dataclass(frozen=True)
class MonitorConfig:
    """What is measured while training."""

    interval: int = _range(0, 0)
    """Steps between two measurements; 0 = about 20 over the run."""
    samples: int = _range(1024, 8)
    """Validation images that every measurement uses."""
    bank: int = _range(2048, 8)
    """Training images in the bank of the online k-NN (only when labels exist)."""
    k: int = _range(20, 1)
    """Neighbours of the online k-NN."""
    temperature: float = _range(0.1, 1e-4)
    """Temperature of the k-NN vote."""
    watch: int = _range(0, -1)
    """Steps between two looks of the alarm at a small fixed sample; 0 = what costs less than 1 % of the training, -1 =
    no alarm."""
    watch_samples: int = _range(128, 8)
    """Validation images that the alarm looks at."""
    on_collapse: Annotated[OnCollapse, arg(aliases=("--on-collapse",))] = "warn"
    """What an alarm does: say so, end the run, or go back to the last healthy checkpoint with a third of the rate and
    of the weight decay (three times at most, then it ends the run)."""


@dataclass(frozen=True)
class EvaluationConfig:
    """The final judgement, after training."""

    bank: int = _range(20_000, 8)
    """Training images at most, in the bank of the k-NN and under the linear probe."""
    queries: int = _range(10_000, 8)
    """Test (or validation) images at most."""
    ks: tuple[int, ...] = (1, 5, 20, 200)
    """Numbers of neighbours, all from one pass."""
    temperature: float = _range(0.1, 1e-4)
    """Temperature of the k-NN vote."""
    probe: bool = True
    """Fit the linear probe as well."""
