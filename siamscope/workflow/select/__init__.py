"""What `siamscope select` does: the best of several runs, or of one run's measurements, without labels."""
