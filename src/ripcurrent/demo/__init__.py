"""The demo: the package's own rows scanned, selected and proved, nothing to bring or to download."""

from ripcurrent.demo._demo import Demo, Proof, cached_proof, fresh_proof, run_demo

__all__ = ["Demo", "Proof", "cached_proof", "fresh_proof", "run_demo"]
