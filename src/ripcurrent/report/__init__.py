"""The page of a run: one offline HTML file with what was measured and how to read it."""

from ripcurrent.report._build import build_report
from ripcurrent.report._experiment_page import build_experiment_page

__all__ = ["build_experiment_page", "build_report"]
