"""ripcurrent."""
