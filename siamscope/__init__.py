"""Siamese self-supervised learning: train, open the gradient, simulate, measure and prevent collapse."""

__version__ = "0.1.0"
