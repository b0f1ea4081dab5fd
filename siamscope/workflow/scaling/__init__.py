"""What `siamscope scaling` does: how each method's step scales, from its traffic and the links' speed."""
