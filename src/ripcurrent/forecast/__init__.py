"""A predictor fitted to finished runs, and its error on sources left out."""

from ripcurrent.forecast._sentences import forecast_lines, read_forecast

__all__ = ["forecast_lines", "read_forecast"]
