"""Anchors made ready for one model: encoded, measured, their directions computed once and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ripcurrent.anchors import AnchorSet
from ripcurrent.data import Completion, EncodedRow, Row, encode, encode_anchor
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.files import cache_folder
from ripcurrent.gradients import (
    ANCHOR_TOKEN_BUDGET,
    FeatureReader,
    Gradient,
    GradientPass,
    anchor_directions,
    largest_direction,
    make_batch,
    mean_gradient,
    norm_of,
    plan_batches,
    similarities,
)
from ripcurrent.models import ChatModel, file_sha256
from ripcurrent.progress import Progress
from ripcurrent.runs import write_json, written_whole
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan_model import require_room_for_directions, usable_positions
from ripcurrent.scan._separation import AnchorMeasurements

DIRECTION_FORMAT = 2
"""Raised when directions are computed differently, so that older ones in a cache are not used."""
MEASURED = "measured.json"
"""Written last into a folder of directions: with it they are whole."""
DIRECTION_FILES = ("harmful.safetensors", "safe.safetensors", MEASURED)
SETS_AT_ONCE = 4
"""Set directions held together while the anchors are compared with them."""


class StoredDirection(Mapping[str, torch.Tensor]):
    """A direction in a safetensors file as a mapping, so that only one tensor of it is in memory at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._opened() as file:
            self._names = tuple(file.keys())

    def __getitem__(self, name: str) -> torch.Tensor:
        with self._opened() as file:
            return cast(torch.Tensor, file.get_tensor(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _opened(self) -> Any:
        try:
            return safe_open(self._path, framework="pt")
        except OSError as error:
            raise RipcurrentError(
                f"The direction {self._path} is gone: the cache was cleaned while it was needed.",
                "Give the same command again: scored rows are kept, and the directions are computed again.",
            ) from error


class DirectionCache:
    """The directions of an anchor set on one model: a folder of the user's cache, named by all that they depend on."""

    def __init__(self, anchor_set: AnchorSet, chat_model: ChatModel, options: ScanOptions) -> None:
        self._anchor_set, self._chat_model, self._options = anchor_set, chat_model, options
        self._depends_on: dict[str, JsonValue] = {
            "format": DIRECTION_FORMAT,
            "anchors": anchor_set.sha256,
            "model": chat_model.fingerprint,
            "template": chat_model.template_sha256,
            "tokenizer": chat_model.tokenizer_sha256,
            "scope": chat_model.scope,
            "dtype": str(chat_model.dtype),
            "device": chat_model.device.type,
            "anchor_tokens": options.anchor_tokens,
            "max_tokens": _longest_anchor(chat_model, options),
            # kept so that directions of earlier versions are used
            **{"attention": "sdpa", "running_sum": False},
        }
        key = hashlib.sha256(json.dumps(self._depends_on, sort_keys=True).encode()).hexdigest()[:24]
        self.folder = cache_folder() / "directions" / key

    def is_whole(self) -> bool:
        """Whether a scan would find its directions; a cleaner of caches may have removed the large ones."""
        return all((self.folder / name).exists() for name in DIRECTION_FILES)

    def both(self) -> list[StoredDirection]:
        """The harmful one and the mean over the safe sets, read from disk tensor by tensor."""
        return [StoredDirection(self.folder / name) for name in DIRECTION_FILES[:2]]

    def bytes(self) -> int:
        """What both take, on disk and so in memory."""
        return sum((self.folder / name).stat().st_size for name in DIRECTION_FILES[:2])

    def record(self) -> dict[str, JsonValue]:
        """What a run keeps of the directions that it used, each with a fingerprint as a model's files have."""
        files = {path.stem: path for path in (self.folder / name for name in DIRECTION_FILES)}
        return {
            "key": self.folder.name,
            "depends_on": self._depends_on,
            "files": {
                name: {"path": str(path.resolve()), "bytes": path.stat().st_size, "fingerprint": file_sha256(path)}
                for name, path in files.items()
            },
        }

    def filled(self, gradient_pass: GradientPass, progress: Progress) -> dict[str, Any]:
        """``norms`` of the anchors' gradients, and their ``similarities`` to each direction, by set; computed once."""
        try:
            if not self.is_whole():
                self.folder.mkdir(parents=True, exist_ok=True)
                with FileLock(self.folder / ".lock"):
                    if not self.is_whole():
                        self._compute(gradient_pass, progress)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise RipcurrentError(
                f"The directions cannot be kept in {self.folder}: {reason}.",
                "Free some space there, or name another folder in the environment variable RIPCURRENT_CACHE.",
            ) from error
        return cast(dict[str, Any], json.loads((self.folder / MEASURED).read_text(encoding="utf-8")))

    def _compute(self, gradient_pass: GradientPass, progress: Progress) -> None:
        anchor_set, chat_model, options = self._anchor_set, self._chat_model, self._options
        how = {"max_tokens": _longest_anchor(chat_model, options), "first_tokens": options.anchor_tokens}
        rows = [
            encode_anchor(anchor.messages, chat_model.tokenizer, index=place, **how)
            for place, anchor in enumerate(anchor_set.anchors)
        ]
        _require_ok(rows, anchor_set, chat_model)
        sets = [[rows[place] for place in anchor_set.places(name)] for name in anchor_set.sets]
        require_room_for_directions(largest_direction(gradient_pass, sets), chat_model, options)
        norms = np.zeros(len(rows))
        progress.start("computing the anchor gradients", len(rows), "anchors")
        directions = anchor_directions(gradient_pass, sets, lambda count: progress.rows(count / 2))
        for name in anchor_set.sets:
            direction = next(directions)
            norms[anchor_set.places(name)] = direction.norms
            length = norm_of(direction.gradient)
            finite = bool(np.isfinite(direction.norms).all() and np.isfinite(length))
            if not finite or length == 0.0:
                what = "zero" if finite else "not finite"
                raise RipcurrentError(
                    f"The direction of {name} in {anchor_set.name} is {what} on this model.",
                    "Use other anchors; if it is not finite, --dtype float32 may help.",
                    code=ExitCode.NOT_MEASURED,
                )
            self._save(name, direction.gradient)
            del direction
        similar: dict[str, list[float]] = {}
        at_once = SETS_AT_ONCE if options.memory is None else 1
        progress.start("comparing the anchors", len(rows) * -(-len(sets) // at_once), "anchors")
        stored = {name: StoredDirection(self.folder / f"{name}.safetensors") for name in anchor_set.sets}
        for start in range(0, len(anchor_set.sets), at_once):
            names = anchor_set.sets[start : start + at_once]
            columns = similarities(gradient_pass, rows, [stored[name] for name in names], progress.rows)
            similar |= {name: columns[:, number].tolist() for number, name in enumerate(names)}
        progress.finish()
        self._save("safe", mean_gradient([stored[name] for name in anchor_set.safe_sets], gradient_pass.dtype))
        for name in anchor_set.safe_sets:
            (self.folder / f"{name}.safetensors").unlink()
        write_json(self.folder / MEASURED, {"norms": norms.tolist(), "similarities": similar})

    def _save(self, name: str, gradient: Gradient) -> None:
        dtype = self._chat_model.dtype
        kept = {key: (t.to(dtype) if t.dim() == 2 else t).contiguous().cpu() for key, t in gradient.items()}
        with written_whole(self.folder / f"{name}.safetensors") as part:
            save_file(kept, part)


@dataclass(frozen=True, slots=True)
class PreparedAnchors:
    """Anchors as a scan uses them."""

    anchor_set: AnchorSet
    measurements: AnchorMeasurements
    """Norms, similarities and cosines among the anchors."""
    cache: DirectionCache | None = None
    """Where the directions lie; None without gradient signals."""
    features: npt.NDArray[np.float32] | None = None
    """Unit features, shape ``(anchors, width)``; None without representation signals."""


def _longest_anchor(chat_model: ChatModel, options: ScanOptions) -> int:
    """Tokens that an anchor may have: as a row, and where rows are cut shorter, as many as anchors at once."""
    config = chat_model.model.config.get_text_config(decoder=True)
    positions = getattr(config, "max_position_embeddings", None) or ANCHOR_TOKEN_BUDGET
    return max(options.max_tokens, min(ANCHOR_TOKEN_BUDGET, usable_positions(chat_model, positions)))


def anchor_features(
    anchor_set: AnchorSet, chat_model: ChatModel, features: FeatureReader, options: ScanOptions
) -> npt.NDArray[np.float32]:
    """Each anchor's state, of length one, shape ``(anchors, width)``."""
    longest = _longest_anchor(chat_model, options)
    asked = [Row(place, str(place), anchor.messages, None, {}) for place, anchor in enumerate(anchor_set.anchors)]
    rows = [encode(row, chat_model.tokenizer, max_tokens=longest, trained=Completion(turns="last")) for row in asked]
    _require_ok(rows, anchor_set, chat_model)
    states: dict[int, npt.NDArray[np.float32]] = {}
    for places in plan_batches([len(row.tokens) for row in rows], ANCHOR_TOKEN_BUDGET):
        batch = features.forward(make_batch([rows[place] for place in places], chat_model.device)).features
        assert batch is not None
        states |= zip(places, batch, strict=True)
    scaled = unit(np.stack([states[place] for place in range(len(rows))]))
    if not np.isfinite(scaled).all() or not scaled.any(axis=1).all():
        raise RipcurrentError(
            f"The representations of {anchor_set.name} are not finite or zero on this model.",
            "Try --dtype float32.",
            code=ExitCode.NOT_MEASURED,
        )
    return scaled


def unit(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Features scaled to length one, row by row; NaN for a row of zeros."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return cast(npt.NDArray[np.float32], features / np.linalg.norm(features, axis=1, keepdims=True))


def _require_ok(rows: list[EncodedRow], anchor_set: AnchorSet, chat_model: ChatModel) -> None:
    for row, (name, number) in zip(rows, anchor_set.order, strict=True):
        which = f"Anchor {number} of {name} in {anchor_set.name}"
        if row.truncated or row.status == "too_long":
            raise RipcurrentError(
                f"{which} is longer than --max-tokens and than {ANCHOR_TOKEN_BUDGET} tokens for {chat_model.name}: "
                "what it stands for would be cut off.",
                "Raise --max-tokens, or shorten that anchor.",
            )
        if row.status != "ok":
            raise RipcurrentError(
                f"{which} cannot be rendered for {chat_model.name}: {row.status}.",
                "Mend that anchor, or use a model whose chat template takes it.",
            )
