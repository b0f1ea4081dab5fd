"""The parts of `benchmarks/peers.py`: one module a library, each run in that library's own environment."""
