"""``python -m scripts.pictures``: draw docs/images/result.svg and docs/images/concepts.svg."""

import csv
from html import escape
from pathlib import Path

TOP = Path(__file__).parents[1]
SELECTIONS = TOP / "research" / "findings" / "selections.csv"
IMAGES = TOP / "docs" / "images"
POOLS = {"alpaca_en_demo": "Alpaca", "instruction-data": "Short instructions"}
ARMS = {
    "before fine-tuning": ("before fine-tuning", "#9aa5b1"),
    "bottom 100": ("100 most protective rows", "#4c78a8"),
    "random rows of the same lengths": ("100 random rows, same lengths", "#c8b98a"),
    "100 random rows": ("100 random rows", "#b8a15a"),
    "100 riskiest by gradient_bidirectional": ("100 riskiest rows", "#d1495b"),
}
FONT = 'font-family="system-ui, sans-serif" font-size="13" fill="#1f2933"'


def svg(width: int, height: int, parts: list[str], title: str) -> str:
    """A picture with a white ground, readable on dark pages too."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    ground = f'<rect width="{width}" height="{height}" rx="8" fill="#fff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *parts, "</svg>\n"])


def text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {FONT} {more}>{escape(words)}</text>'


def rates() -> dict[tuple[str, str], tuple[float, float, float]]:
    """Percent answered with its interval, by pool and arm, of the runs that were asked all 572 requests."""
    with SELECTIONS.open(encoding="utf-8") as file:
        chosen = [row for row in csv.DictReader(file) if (row["n"], row["judge"]) == ("572", "prefix")]
    return {
        (row["dataset"], row["arm"]): (float(row["answered"]), float(row["low"]), float(row["high"])) for row in chosen
    }


def result() -> str:
    """Harmful requests answered after training on each selection, a panel a pool."""
    found, parts, y, left, scale = rates(), [], 52, 245, 7.0
    parts.append(text(20, 28, "Harmful requests answered by the fine-tuned demo model", 'font-weight="600"'))
    for pool, name in POOLS.items():
        parts.append(text(20, y + 4, name, 'font-weight="600"'))
        y += 18
        for arm, (label, colour) in ARMS.items():
            rate, low, high = found[pool, arm]
            middle = y + 9
            parts += [
                text(left - 8, middle + 4, label, 'text-anchor="end"'),
                f'<rect x="{left}" y="{y}" width="{rate * scale:.1f}" height="18" fill="{colour}"/>',
                f'<path d="M{left + low * scale:.1f} {middle}H{left + high * scale:.1f}" stroke="#1f2933"/>',
                text(left + high * scale + 8, middle + 4, f"{rate:.1f} %"),
            ]
            y += 24
        y += 18
    parts.append(text(20, y, "572 held-out requests, 3 seeds, judge prefix; lines: 95 % interval", 'opacity="0.75"'))
    return svg(760, y + 18, parts, "Harmful requests answered after fine-tuning, by rows trained on")


BOXES = {
    "rows": (20, 60, "your rows"),
    "anchors": (20, 160, "anchors"),
    "model": (230, 110, "your model"),
    "score": (440, 60, "a score for each row"),
    "selection": (440, 160, "selection, controls"),
    "training": (650, 160, "fine-tuned models"),
    "forecast": (650, 60, "a forecast"),
    "answers": (650, 260, "answers"),
    "judges": (440, 260, "judges, people"),
    "verdict": (230, 260, "rates, a verdict"),
}
ARROWS = (
    ("rows", "model", ""),
    ("anchors", "model", ""),
    ("model", "score", "scan"),
    ("score", "selection", "select"),
    ("score", "forecast", "forecast"),
    ("selection", "training", "finetune"),
    ("training", "answers", "evaluate"),
    ("answers", "judges", "judge"),
    ("judges", "verdict", "compare"),
)
WIDTH, HEIGHT = 140, 44


def concepts() -> str:
    """What is made of what, and by which verb."""
    parts = [
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#52606d"/></marker></defs>'
    ]
    for start, end, verb in ARROWS:
        (x, y, _), (other_x, other_y, _) = BOXES[start], BOXES[end]
        if x == other_x:
            down = 1 if other_y > y else 0
            line = (x + WIDTH / 2, y + HEIGHT * down, x + WIDTH / 2, other_y + HEIGHT * (1 - down))
        else:
            right = 1 if other_x > x else 0
            line = (x + WIDTH * right, y + HEIGHT / 2, other_x + WIDTH * (1 - right), other_y + HEIGHT / 2)
        x1, y1, x2, y2 = line
        parts.append(
            f'<path d="M{x1:g} {y1:g}L{x2:g} {y2:g}" stroke="#52606d" stroke-width="1.5" marker-end="url(#tip)"/>'
        )
        shift = 8 if x == other_x else 0
        anchor = "start" if x == other_x else "middle"
        parts.append(text((x1 + x2) / 2 + shift, (y1 + y2) / 2 + (4 if shift else -7), verb, f'text-anchor="{anchor}"'))
    for x, y, words in BOXES.values():
        parts += [
            f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef2f6" stroke="#9aa5b1"/>',
            text(x + WIDTH / 2, y + HEIGHT / 2 + 4, words, 'text-anchor="middle"'),
        ]
    parts.append(text(20, 30, "What is made of what, and by which command", 'font-weight="600"'))
    return svg(810, 330, parts, "From rows to a verdict")


if __name__ == "__main__":
    for name, picture in (("result", result()), ("concepts", concepts())):
        (IMAGES / f"{name}.svg").write_text(picture, encoding="utf-8")
