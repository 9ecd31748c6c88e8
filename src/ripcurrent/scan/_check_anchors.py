"""Check an anchor set on a model."""

from dataclasses import asdict, dataclass
from typing import Any

from pydantic import JsonValue

from ripcurrent.anchors import load_anchors
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.scan._options import ScanOptions, require_combination
from ripcurrent.scan._passes import ScanPasses
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.scan._separation import leave_one_out_scores, separation


@dataclass(frozen=True, slots=True)
class CheckedAnchor:
    """One anchor as the signals see it."""

    set: str
    """Its set."""
    number: int
    """Its number within the set."""
    category: str | None
    """Its category, if the file gives one."""
    scores: dict[str, float]
    """Its score by each signal, itself left out of its set."""
    norm: float | None
    """Its gradient norm over the first tokens."""


@dataclass(frozen=True, slots=True)
class AnchorCheck:
    """How well an anchor set separates harm from safety on one model."""

    name: str
    """The set's name."""
    model: str
    """The model's name."""
    separation: dict[str, float]
    """Leave-one-out AUROC, harmful against safe, by signal."""
    scores: tuple[str, ...]
    """Names of the signals."""
    anchors: tuple[CheckedAnchor, ...]
    """Every anchor."""

    def to_json(self) -> dict[str, JsonValue]:
        """What ``--json`` prints."""
        return asdict(self)


def check_anchors(anchors: str = "builtin", *, progress: Progress | None = None, **changes: Any) -> AnchorCheck:
    """Measure an anchor set on a model; options by name as for a scan."""
    options = ScanOptions.resolve(None, {**changes, "anchors": anchors})
    require_combination(options, "messages")
    progress = progress or SilentProgress()
    anchor_set = load_anchors(anchors)
    progress.step("loading the model")
    passes = ScanPasses(load_scan_model(options), options)
    measurements = passes.anchors(anchor_set, progress).measurements
    scores, norms = leave_one_out_scores(measurements, options.avg_n), measurements.norms
    return AnchorCheck(
        name=anchor_set.name,
        model=passes.chat_model.name,
        separation=separation(measurements, options.avg_n),
        scores=tuple(scores),
        anchors=tuple(
            CheckedAnchor(
                set=name,
                number=number,
                category=anchor_set.anchors[place].category,
                scores={column: float(values[place]) for column, values in scores.items()},
                norm=None if norms is None else norms[place],
            )
            for place, (name, number) in enumerate(anchor_set.order)
        ),
    )
