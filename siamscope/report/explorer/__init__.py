"""The theory to play with: a page that redraws portrait, basins, trajectory and verdict as its sliders move."""

from siamscope.report.explorer.page import page, presets, write

__all__ = ["page", "presets", "write"]
