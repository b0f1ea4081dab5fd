"""What each process of the test in test_distributed.py runs: train every recipe in a folder, under torchrun or alone.

Usage: torchrun --nproc-per-node=2 two_ranks.py RECIPES OUT
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from siamscope import recipe
from siamscope.workflow.train import train

if __name__ == "__main__":
    torch.set_num_threads(1)
    if "WORLD_SIZE" in os.environ:  # one group for all trainings: torchrun's rendezvous serves one only
        dist.init_process_group("gloo")
    recipes, out = map(Path, sys.argv[1:])
    for file in sorted(recipes.glob("*.toml")):
        train(recipe.load(file), out / file.stem)
    if dist.is_initialized():
        dist.destroy_process_group()
