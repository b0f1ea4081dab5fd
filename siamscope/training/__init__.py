"""The step, the loop, optimisers and schedules, checkpoints, processes and monitors."""
