"""How values read on the pages."""

import json
import math
from collections.abc import Callable
from datetime import datetime

MINUS = "\N{MINUS SIGN}"
NONE = "–"


def number(value: float | None) -> str:
    """A measure: three significant digits below a tenth, then three decimals; a true minus sign."""
    if value is None or math.isnan(value):
        return NONE
    if value != 0 and (abs(value) < 0.0005 or abs(value) >= 100_000):
        text = f"{value:.2e}"
    elif value != 0 and abs(value) < 0.1:
        text = f"{value:#.3g}"
    elif abs(value) < 10:
        text = f"{value:.3f}"
    else:
        text = f"{value:,.1f}"
    return text.replace("-", MINUS)


def count(value: int | None) -> str:
    """A count with commas."""
    return NONE if value is None else f"{value:,}"


def percent(value: float | None) -> str:
    """A share in percent."""
    return NONE if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares in points, signed."""
    return NONE if value is None else f"{100 * value:+.1f}".replace("-", MINUS)


def change(value: float | None) -> str:
    """A signed change of a loss; what rounds to nothing has no sign."""
    if value is None:
        return NONE
    return "0.000" if abs(value) < 0.0005 else f"{value:+.3f}".replace("-", MINUS)


def p_value(value: float | None) -> str:
    """A p."""
    if value is None:
        return NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def pretty(value: object) -> str:
    """A value of a manifest."""
    if value is None:
        return NONE
    if isinstance(value, dict):
        return ", ".join(f"{key} {pretty(part)}" for key, part in value.items()) or NONE
    if isinstance(value, list | tuple):
        return ", ".join(map(pretty, value)) or NONE
    return value if isinstance(value, str) else json.dumps(value)


def date(value: object) -> str:
    """A time of a manifest; as it stands if it is none."""
    try:
        return datetime.fromisoformat(str(value)).strftime("%d %B %Y, %H:%M %Z").lstrip("0").strip()
    except ValueError:
        return str(value)


FILTERS: dict[str, Callable[..., str]] = {
    one.__name__: one for one in (number, count, percent, points, change, p_value, pretty, date)
}
"""For the templates."""
