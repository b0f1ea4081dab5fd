"""What each process of test_gloo.py runs: moments of its own rows, summed over the processes.

Usage: torchrun --nproc-per-node=2 gloo_moments.py FEATURES OUT. The last process sees no row at all if OUT has `empty`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from siamscope.collapse import Moments, moment_scores


def total(x: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    dist.all_reduce(x)
    return x


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, size = dist.get_rank(), dist.get_world_size()
    features = torch.from_numpy(np.load(sys.argv[1]))
    out = Path(sys.argv[2])
    found = {}
    for name, mine in (("shared", features[rank::size]), ("one empty", features if rank == 0 else features[:0])):
        state = Moments(features.shape[1], reference=features)
        for rows in mine.split(300):
            state.update(rows)
        state.all_reduce(total)
        found[name] = {"n": state.n, "dtype": state.dtype, "scores": moment_scores(state)}
    point = (3 + 3e-7 * torch.randn(200, 8, generator=torch.Generator().manual_seed(0))).float()
    state = Moments(8, reference=point)
    if rank == 0:
        state.update(point)
    state.all_reduce(total)
    found["point"] = {"dtype": state.dtype, "constant": state.is_constant(), "spread": float(state.variances().sum())}
    out.with_suffix(f".{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
