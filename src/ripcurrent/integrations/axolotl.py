"""A plugin for Axolotl's YAML: ``plugins: [ripcurrent.integrations.axolotl.RipcurrentPlugin]``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ripcurrent.errors import RipcurrentError
from ripcurrent.integrations.trl import RipcurrentCallback, filter

try:
    from axolotl.integrations.base import BasePlugin
except ImportError as error:
    raise RipcurrentError("axolotl is not installed, and its plugin needs it.", "pip install axolotl") from error


class RipcurrentArgs(BaseModel):
    """Keys of Axolotl's configuration."""

    ripcurrent_run: str | None = None
    ripcurrent_every: int = 10
    ripcurrent_stop_above: float | None = None
    ripcurrent_drop: str | int | None = None


class RipcurrentPlugin(BasePlugin):  # type: ignore[misc]  # Axolotl has no types
    """Leaves out the riskiest rows and adds the callback, as the configuration says."""

    def get_input_args(self) -> str:
        """Where the keys are declared."""
        return f"{__name__}.RipcurrentArgs"

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        """Change the trainer before it trains."""
        if not (run := cfg.ripcurrent_run):
            raise RipcurrentError("The configuration names no scan.", "Add ripcurrent_run: FOLDER to it.")
        if cfg.ripcurrent_drop:
            filter(trainer, run, drop=cfg.ripcurrent_drop)
        how = {"every": cfg.ripcurrent_every or 10, "stop_above": cfg.ripcurrent_stop_above}
        trainer.add_callback(RipcurrentCallback(trainer, run, **how))
