"""Ray itself, imported when it is needed, with its reports off and its warnings kept out of the terminal."""

from __future__ import annotations

import logging
import os
from typing import Any

from ripcurrent.errors import MissingExtraError

NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Nothing is reported to Ray's makers, whatever the environment says."""

SETTINGS = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_worker_niceness": "0",
}
"""Ray's settings unless the environment has others; it reads them when first imported.

Its own warnings stay out of the terminal, and workers are as nice as this process.
"""


def ray_library() -> Any:
    """Ray, quiet and reporting nothing.

    Raises:
        MissingExtraError: It is not installed.
    """
    os.environ.update(NO_REPORTS)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError("ray", "ray") from error
    return ray


def ray_data_library() -> Any:
    """Ray Data.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import ray.data
    except ImportError as error:
        raise MissingExtraError("ray[data]", "ray") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray.data
