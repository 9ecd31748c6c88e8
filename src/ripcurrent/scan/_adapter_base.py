"""Whether an adapter was put on the model that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ripcurrent.models._variables import split_variables


def other_base(facts: Mapping[str, Any]) -> str | None:
    """A sentence on an adapter whose configuration names another base model than it was put on; None without one.

    Args:
        facts: A manifest's entry of the model (`ripcurrent.models.describe`), or of an endpoint, which has no adapter.
    """
    named = facts.get("adapter_base")
    if named is None:
        return None
    name, _ = split_variables(facts["name"])
    if _last(named) == _last(name):
        return None
    return (
        f"The adapter {facts['adapter']} names the base model {named} and was put on {name}: see that it belongs there."
    )


def _last(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
