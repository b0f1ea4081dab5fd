"""What each process of test_agreement.py runs: several trainings that must not begin, each of which says why.

Usage: torchrun --nproc-per-node=2 of_two_minds.py RECIPE OUT. Every rank writes OUT/RANK.json: case to message.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch.distributed as dist

from siamscope import recipe as recipes
from siamscope.workflow import launch
from siamscope.workflow.train import train

if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank, out = dist.get_rank(), Path(sys.argv[2])
    base = recipes.load(sys.argv[1])
    odd = replace(base, optim=replace(base.optim, lr=0.5), train=replace(base.train, seed=7))
    free = replace(
        base, data=replace(base.data, cache_dir=str(out / f"cache{rank}")), train=replace(base.train, steps=1)
    )
    counts = {"kind": "folder", "samples": 0, "val_samples": 2, "test_samples": 0}

    def of_folder(name: str, **changes):
        data = replace(base.data, source=name, cache_dir=str(out / f"cache{rank}"), **counts)
        return replace(base, data=data, train=replace(base.train, **changes))

    cases = {
        "recipe": odd if rank else base,
        "free": free,
        "files": of_folder("photos", batch_size=4),
        "pixels": of_folder("other", batch_size=4),
        "few": of_folder("few", batch_size=2),
    }
    said = {}
    for name, config in cases.items():
        os.chdir(out / f"host{rank}")
        try:
            train(config, out / name)
        except ValueError as error:
            said[name] = f"{type(error).__name__}: {error}"
    launch.software = lambda: {"siamscope": f"0.{rank}"}
    try:
        train(base, out / "software")
    except ValueError as error:
        said["software"] = f"{type(error).__name__}: {error}"
    (out / f"{rank}.json").write_text(json.dumps(said))
    dist.destroy_process_group()
