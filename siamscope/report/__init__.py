"""The report: one self-contained HTML page from a run directory, or one that lays several runs side by side.

Reads files only (no torch, no data set); the page needs no network and runs no script.
"""

from siamscope.report.errors import ReportError
from siamscope.report.figure import overview
from siamscope.report.page import write
from siamscope.report.read import RunData, read_run

__all__ = ["ReportError", "RunData", "overview", "read_run", "write"]
