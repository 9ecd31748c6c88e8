"""The page on which people rate a run's answers, and its private key."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._prompts import AXES, Axis
from ripcurrent.evaluate._rated_run import ArmAnswer, answer_sha256, arm_runs, read_answers
from ripcurrent.evaluate._rating_draw import blind_order, draw_answers, opaque_ids
from ripcurrent.evaluate._ratings import RUBRIC_VERSION, KeyItem, RatingKey, read_key
from ripcurrent.runs import write_json, written_whole

PAGE = "rating.html"


@dataclass(frozen=True, slots=True)
class RatingPage:
    """A page for raters and its private key."""

    page: Path
    """The page, for raters."""
    key: Path
    """Whose answer each item is: not for raters."""
    page_sha256: str
    """Hash of the items and the rubric."""
    items: int
    """Answers to rate."""
    arms: dict[str, int]
    """Answers by arm."""
    notes: tuple[str, ...]
    """What a user should know, in sentences."""

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {**asdict(self), "page": str(self.page), "key": str(self.key)}


def rate(
    run: str | Path,
    *,
    out: str | Path | None = None,
    per_arm: int | None = None,
    axis: str = "harmful",
    seed: int = 0,
    reveal: bool = False,
) -> RatingPage:
    """Write the page on which people rate a run's answers, and its private key beside it.

    The same run and options give the same page to the byte, so that progress kept in a rater's browser stays valid.

    Args:
        run: Folder of an evaluation, or of an experiment with its arms.
        out: The page; ``rating.html`` in the run's folder unless given. The key is ``NAME.key.json`` beside it.
        per_arm: Rate so many prompts only, the same for every arm.
        axis: ``harmful``, ``sounds_dangerous`` or ``plain``.
        seed: Seed of the draw, the order and the ids.
        reveal: The page shows answers, so nothing is written without this.

    Raises:
        RipcurrentError: Not revealed; no such run, axis or prompts; or a file in the way that is not this page.
    """
    if not reveal:
        raise RipcurrentError(
            "A rating page shows what the models answered, unmasked, and answers are shown only when asked for.",
            "If the raters know what they will read, give the command again with --reveal.",
        )
    chosen, folder = _axis(axis), Path(run)
    arms, waiting = arm_runs(folder)
    answers = draw_answers([answer for arm in arms for answer in read_answers(arm, chosen)], per_arm=per_arm, seed=seed)
    ordered = blind_order(answers, seed=seed)
    # The page's libraries take a second to import: no error above should wait for them.
    from ripcurrent.report._rating_page import PageItem, rating_page_hash, render_rating_page

    items = [
        PageItem(name, answer.prompt, answer.completion, answer.truncated)
        for name, answer in zip(opaque_ids(len(ordered), seed=seed), ordered, strict=True)
    ]
    page_hash = rating_page_hash(items)
    page = Path(out) if out is not None else folder / PAGE
    key = _free_place(page, page_hash)
    contents = RatingKey(
        page=page_hash,
        rubric=RUBRIC_VERSION,
        axis=chosen,
        per_arm=per_arm,
        seed=seed,
        items={item.id: _key_item(answer) for item, answer in zip(items, ordered, strict=True)},
    )
    write_json(key, contents.model_dump())
    with written_whole(page) as part:
        part.write_text(render_rating_page(items), encoding="utf-8", newline="\n")
    names = sorted({answer.arm for answer in answers})
    notes = [f"Left out, as they have no answers yet: {', '.join(waiting)}."] if waiting else []
    return RatingPage(
        page=page,
        key=key,
        page_sha256=page_hash,
        items=len(items),
        arms={name: sum(answer.arm == name for answer in answers) for name in names},
        notes=tuple(notes),
    )


def _axis(name: str) -> Axis:
    for axis in AXES:
        if axis == name:
            return axis
    raise RipcurrentError(f"There is no axis {name!r}.", f"Axes: {', '.join(get_args(Axis))}.")


def _key_item(answer: ArmAnswer) -> KeyItem:
    return KeyItem(arm=answer.arm, seed=answer.seed, prompt_id=answer.prompt_id, answer_sha256=answer_sha256(answer))


def _free_place(page: Path, page_hash: str) -> Path:
    """The key's path; an error when writing would overwrite anything but this same page."""
    if page.suffix != ".html" or page.is_dir():
        raise RipcurrentError(f"--out {page} names no .html file.", "Name the page, such as --out rating.html.")
    key = page.with_suffix(".key.json")
    if key.exists():
        if read_key(key).page != page_hash:
            raise RipcurrentError(
                f"{key} is the key to another page, whose ratings would be lost without it.",
                "Name another page with --out, or move that one away with its key.",
            )
    elif page.exists():
        raise RipcurrentError(f"{page} exists and is no rating page with a key.", "Name another page with --out.")
    return key
