"""What `siamscope dynamics` does: a module for each command, with its `Options` and `run`."""
