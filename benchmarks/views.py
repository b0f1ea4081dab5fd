"""Throughput of random views: batched (exact and fast) beside the usual per-sample Pillow loop, in one run.

    python benchmarks/views.py [--quick] [--device cpu] [--out views.json]

Counts images per second for TWO views each, by the process's CPU time on one thread (on a GPU: wall time).
Each figure is the best of several rounds with the median beside it: other programs on the machine only ever take away.
`fresh` allocates the output each time, `reused` writes to the same two tensors, as a training loop can.
The Pillow loop does what torchvision's transforms do to each image: crop, resize, flip, the four colour operations in
random order, grey, blur, solarise, to float, normalise.
"""

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from siamscope.views import ViewSpec, get_policy, make_views

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def pictures(n: int, height: int, width: int) -> torch.Tensor:
    """Smooth uint8 images (n, 3, H, W); what they show does not change the time, that they are not constant might."""
    small = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (torch.nn.functional.interpolate(small, (height, width), mode="bilinear") * 255).byte()


def pil_hue(image: Image.Image, shift: float) -> Image.Image:
    h, s, v = image.convert("HSV").split()
    turned = (np.asarray(h).astype(np.int16) + int(shift * 255)).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB")


def pil_crop(image: Image.Image, spec: ViewSpec) -> Image.Image:
    width, height = image.size
    for _ in range(10):
        area = width * height * random.uniform(*spec.crop_scale)
        ratio = math.exp(random.uniform(math.log(spec.crop_ratio[0]), math.log(spec.crop_ratio[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = random.randint(0, width - w), random.randint(0, height - h)
            break
    else:
        x, y, w, h = 0, 0, width, height
    return image.crop((x, y, x + w, y + h)).resize((spec.size, spec.size), Image.Resampling.BILINEAR)


def pil_jitter(image: Image.Image, spec: ViewSpec) -> Image.Image:
    b, c, s = (random.uniform(max(0.0, 1 - v), 1 + v) for v in spec.jitter[:3])
    operations: list[Callable[[Image.Image], Image.Image]] = [
        lambda x: ImageEnhance.Brightness(x).enhance(b),
        lambda x: ImageEnhance.Contrast(x).enhance(c),
        lambda x: ImageEnhance.Color(x).enhance(s),
        lambda x: pil_hue(x, random.uniform(-spec.jitter[3], spec.jitter[3])),
    ]
    random.shuffle(operations)
    for operation in operations:
        image = operation(image)
    return image


def pil_view(array: np.ndarray, spec: ViewSpec) -> torch.Tensor:
    image = pil_crop(Image.fromarray(array), spec)
    if random.random() < spec.flip_prob:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < spec.jitter_prob:
        image = pil_jitter(image, spec)
    if random.random() < spec.grey_prob:
        image = image.convert("L").convert("RGB")
    if random.random() < spec.blur_prob:
        image = image.filter(ImageFilter.GaussianBlur(random.uniform(*spec.blur_sigma)))
    if random.random() < spec.solarise_prob:
        image = ImageOps.solarize(image)
    x = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
    return x.sub_(torch.tensor(MEAN).view(3, 1, 1)).div_(torch.tensor(STD).view(3, 1, 1))


def clock(device: torch.device) -> float:
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def rate(action: Callable[[], object], images: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Images per second of `action`, which handles `images` of them: best and median round."""
    action()
    times = []
    for _ in range(rounds):
        start = clock(device)
        action()
        times.append(clock(device) - start)
    return {"best": images / min(times), "median": images / statistics.median(times)}


def measure(
    policy: str, size: int, source: tuple[int, int], batch: int, rounds: int, device: torch.device
) -> dict[str, Any]:
    """One row of the table: both colour modes and the Pillow loop on the same images."""
    images = pictures(batch, *source)
    on_device, specs = images.to(device), get_policy(policy, size)
    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in images[:64]]
    targets = [torch.empty(batch, 3, size, size, device=device) for _ in specs]
    result: dict[str, Any] = {"policy": policy, "size": size, "source": source, "batch": batch}
    cpu = torch.device("cpu")
    result["pil"] = rate(lambda: [[torch.stack([pil_view(a, s) for a in arrays])] for s in specs], len(arrays), 4, cpu)
    for colour in ("exact", "fast"):
        for name, out in (("fresh", None), ("reused", targets)):
            generator = torch.Generator().manual_seed(0)

            def once(colour: Any = colour, out: Any = out, generator: torch.Generator = generator) -> None:
                make_views(on_device, specs, generator, colour=colour, mean=MEAN, std=STD, out=out)

            result[f"{colour}_{name}"] = rate(once, batch, rounds, device)
    return result


def machine(device: torch.device) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return {
        "processor": model,
        "logical_cores": os.cpu_count(),
        "load_average": os.getloadavg() if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "pillow": Image.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def table(rows: list[dict[str, Any]]) -> str:
    columns = ("pil", "exact_fresh", "exact_reused", "fast_fresh", "fast_reused")
    lines = [f"{'policy':9}{'size':>5}{'batch':>6}" + "".join(f"{c:>17}" for c in columns) + "   reused / pil"]
    for row in rows:
        cells = "".join(f"{row[c]['best']:>9,.0f}{'(' + format(row[c]['median'], ',.0f') + ')':>8}" for c in columns)
        gains = (row[c]["best"] / row["pil"]["best"] for c in ("exact_reused", "fast_reused"))
        lines.append(
            f"{row['policy']:9}{row['size']:>5}{row['batch']:>6}{cells}   " + "  ".join(f"{g:.1f}x" for g in gains)
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures and the machine's description as JSON")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device, rounds = torch.device(args.device), 8 if args.quick else 30
    large = 16 if device.type == "cpu" else 256
    rows = [
        measure(policy, 32, (32, 32), batch, rounds, device) for policy in ("simsiam", "byol") for batch in (256, 512)
    ]
    rows.append(measure("simsiam", 224, (256, 320), large, max(3, rounds // 4), device))
    rows.append(measure("byol", 224, (256, 320), large, max(3, rounds // 4), device))
    print("images/s, two views each, one thread: best (median)")
    print(table(rows))
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(device), "rows": rows}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
