"""The page of a run: one offline HTML file with what was measured and how to read it."""

from ripcurrent.report._build import build_report

__all__ = ["build_report"]
