"""What `siamscope forecast` does: fit on runs whose accuracy is known, apply to others."""
