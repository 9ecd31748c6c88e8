"""A predictor fitted to finished runs, and its error on sets and sources left out."""

from ripcurrent.forecast._calibrate import FittedRun, calibrate, fit_ladder
from ripcurrent.forecast._calibration import (
    Calibration,
    CalibrationSource,
    Conditions,
    ForecastError,
    LeftOut,
    ScoredWith,
    SetScore,
    read_calibration,
    shipped_calibrations,
)
from ripcurrent.forecast._forecast import Forecast, forecast, read_forecast
from ripcurrent.forecast._ladder import CalibrationRun, Ladder

__all__ = [
    "Calibration",
    "CalibrationRun",
    "CalibrationSource",
    "Conditions",
    "FittedRun",
    "Forecast",
    "ForecastError",
    "Ladder",
    "LeftOut",
    "ScoredWith",
    "SetScore",
    "calibrate",
    "fit_ladder",
    "forecast",
    "read_calibration",
    "read_forecast",
    "shipped_calibrations",
]
