"""Images a second of views, of the training step and end to end, beside a loop of the usual kind, in one run.

    python benchmarks/throughput.py --out throughput.json

Every figure is images / second / core: images divided by the processor time of one thread, best of several rounds that
are interleaved, so that a change of the machine's speed hits all alike. The usual kind: one image at a time through
Pillow, float32, channels first. Both loops have siamscope's network, views and optimiser and the same batch. `compiled`
is the best format with the branches compiled, as `siamscope train` does when the run is long enough (seconds of
compiling beside it). `conv` is a 3x3 convolution on short rows, forward and backward, as torch does it and in a strip.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from siamscope import recipe as recipes
from siamscope import views
from siamscope.networks.strip_conv import in_a_strip
from siamscope.training import compile as compiling
from siamscope.training import machine
from siamscope.training.build import Normalisation, build_trainer, specs_of
from siamscope.training.distributed import World
from siamscope.training.precision import Precision
from siamscope.workflow import environment

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def pillow_view(image: Image.Image, spec: views.ViewSpec, rng: np.random.Generator) -> torch.Tensor:
    """One random view as a per-sample pipeline makes it: crop, flip, jitter in random order, grey, to a tensor."""
    width, height = image.size
    area = width * height * rng.uniform(*spec.crop_scale)
    ratio = np.exp(rng.uniform(*np.log(spec.crop_ratio)))
    w, h = min(round((area * ratio) ** 0.5), width), min(round((area / ratio) ** 0.5), height)
    left, top = rng.integers(0, width - w + 1), rng.integers(0, height - h + 1)
    image = image.resize((spec.size, spec.size), Image.Resampling.BILINEAR, box=(left, top, left + w, top + h))
    if rng.random() < spec.flip_prob:
        image = ImageOps.mirror(image)
    if rng.random() < spec.jitter_prob:
        for operation in rng.permutation(4):
            strength = spec.jitter[operation]
            if operation == 3:
                hue, saturation, value = image.convert("HSV").split()
                shift = round(255 * rng.uniform(-strength, strength))
                turned = ((np.asarray(hue, np.int16) + shift) % 256).astype(np.uint8)
                image = Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")
            else:
                kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[operation]
                image = kind(image).enhance(rng.uniform(1 - strength, 1 + strength))
    if rng.random() < spec.grey_prob:
        image = image.convert("L").convert("RGB")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def trainer(backbone: str, width: float, batch: int, colour: str, precision: Precision):
    """A SimSiam trainer with the heads of the recipe for small images (512, 256)."""
    base = recipes.for_method("simsiam")
    recipe = dataclasses.replace(
        base,
        network=dataclasses.replace(base.network, backbone=backbone, width=width),
        views=dataclasses.replace(base.views, colour=colour),
        train=dataclasses.replace(base.train, batch_size=batch, steps=1000),
    )
    return build_trainer(recipe, 3, 195, Normalisation(MEAN, STD), World(), precision)


def rates(jobs: dict[str, Callable[[], None]], images: int, rounds: int) -> dict[str, float]:
    """Images a second of processor time for every job, best of `rounds` interleaved rounds after a first one."""
    best = dict.fromkeys(jobs, 0.0)
    for job in jobs.values():
        job()
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            best[name] = max(best[name], images / (time.process_time() - start))
    return {name: round(value, 1) for name, value in best.items()}


def view_jobs(images: torch.Tensor) -> dict[str, Callable[[], None]]:
    specs = specs_of(recipes.for_method("simsiam"))
    generator = torch.Generator().manual_seed(0)
    rng = np.random.default_rng(0)
    pillow = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    kept = [torch.empty(images.shape, dtype=torch.float32) for _ in specs]

    def batched(colour: str) -> Callable[[], None]:
        return lambda: views.make_views(images, specs, generator, colour=colour, mean=MEAN, std=STD, out=kept) and None

    def one_by_one() -> None:
        for image in pillow:
            for spec in specs:
                pillow_view(image, spec, rng)

    return {"views exact": batched("exact"), "views fast": batched("fast"), "views Pillow": one_by_one}


def step_jobs(backbone: str, width: float, images: torch.Tensor) -> dict[str, Callable[[], None]]:
    """The training step alone (views made beforehand), in four formats."""
    jobs = {}
    for precision in [Precision(half, last) for half in (False, True) for last in (False, True)]:
        state = trainer(backbone, width, len(images), "fast", precision)
        batch = state.make_views(images, torch.Generator().manual_seed(0))
        state.make_views = lambda *_, batch=batch: batch
        name = f"step {precision.name}{' channels last' if precision.channels_last else ''}"
        jobs[name] = lambda state=state: state.step(1, images) and None
    return jobs


def whole_jobs(
    backbone: str, width: float, images: torch.Tensor, precision: Precision
) -> dict[str, Callable[[], None]]:
    """From uint8 images to new weights: exact and fast views in the best format, and the usual kind of loop."""
    jobs: dict[str, Callable[[], None]] = {}
    for colour in ("exact", "fast"):
        state = trainer(backbone, width, len(images), colour, precision)
        jobs[f"end to end {colour}"] = lambda state=state: state.step(1, images) and None
    compiled = trainer(backbone, width, len(images), "fast", precision)
    found = compiling.choose("on", compiled, 1000)
    print(f"{backbone:<9} {found.reason}", flush=True)
    if found.compiled:
        jobs["end to end fast compiled"] = lambda: compiled.step(1, images) and None
    usual = trainer(backbone, width, len(images), "fast", Precision())
    rng = np.random.default_rng(0)
    pillow = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    usual.make_views = lambda *_: [torch.stack([pillow_view(i, spec, rng) for i in pillow]) for spec in usual.specs]
    jobs["end to end Pillow fp32"] = lambda: usual.step(1, images) and None
    return jobs


def conv_jobs(channels: int, size: int, batch: int) -> dict[str, Callable[[], None]]:
    """One convolution of the last stage, forward and backward, in bfloat16."""
    kind = {"dtype": torch.bfloat16}
    layout = torch.channels_last
    images = torch.randn(batch, channels, size, size, **kind).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(channels, channels, 3, 3, **kind).contiguous(memory_format=layout).requires_grad_()
    upstream = torch.randn_like(images)

    def job(convolve: Callable[[], torch.Tensor]) -> Callable[[], None]:
        return lambda: torch.autograd.grad(convolve(), (images, weight), upstream) and None

    name = f"conv {channels} {size}x{size}"
    return {
        f"{name} torch": job(lambda: torch.nn.functional.conv2d(images, weight, padding=1)),
        f"{name} strip": job(lambda: in_a_strip(images, weight, 1)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("throughput.json"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    machine.keep_memory()
    results: dict[str, object] = {}
    for backbone, width, batch in (("resnet8", 1.0, 256), ("resnet18", 1.0, 64)):
        noise = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (batch, 3, 32, 32), dtype=torch.uint8, generator=noise)
        rounds = args.rounds if backbone == "resnet8" else 2
        rows = rates(view_jobs(images), batch, args.rounds) if backbone == "resnet8" else {}
        steps = rates(step_jobs(backbone, width, images), batch, rounds)
        fastest = max(steps, key=lambda name: steps[name])
        rows |= steps
        precision = Precision("bf16" in fastest, "channels last" in fastest)
        rows |= rates(whole_jobs(backbone, width, images, precision), batch, rounds)
        usual = rows["end to end Pillow fp32"]
        kinds = [name.removeprefix("end to end ") for name in rows if name.startswith("end to end")]
        rows |= {f"ratio {kind}": round(rows[f"end to end {kind}"] / usual, 2) for kind in kinds[:-1]}
        rows |= rates(conv_jobs(512, 4, batch), batch, rounds) if backbone == "resnet18" else {}
        results[f"{backbone} batch {batch}"] = rows
        for name, value in rows.items():
            print(f"{backbone:<9} {name:<28} {value:>10,.1f}", flush=True)
    about = environment.describe(torch.device("cpu")) | {"date": environment.now(), "system": platform.system()}
    unit = "images / second / core (two views an image)"
    args.out.write_text(json.dumps({"machine": about, "unit": unit, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
