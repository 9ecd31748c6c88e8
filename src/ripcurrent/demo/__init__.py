"""The demo: the package's own rows scanned, selected and proved, nothing to bring or to download."""

from ripcurrent.demo._demo import Demo, DemoRow, GroupShape, run_demo
from ripcurrent.demo._proof import Proof, cached_proof, fresh_proof

__all__ = ["Demo", "DemoRow", "GroupShape", "Proof", "cached_proof", "fresh_proof", "run_demo"]
