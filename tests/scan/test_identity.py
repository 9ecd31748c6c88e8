"""What makes two scans the same: content by hash, each alone; where it lies makes no difference."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from ripcurrent.anchors import load_anchors
from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import RunFolder
from ripcurrent.scan import scan
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._passes import ScanPasses
from ripcurrent.scan._prepared_anchors import DirectionCache
from ripcurrent.scan._scan import PLACES
from ripcurrent.scan._scan_model import load_scan_model
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny
from tests.scan.test_scan_resume import Counting
from tests.scan_fixtures import EXACT, anchor_lines, good_rows, write_jsonl

pytestmark = pytest.mark.usefixtures("shared_cache")


@dataclass(frozen=True)
class Home:
    """A folder with all that a scan takes, and its run."""

    folder: Path

    @property
    def options(self) -> dict[str, Any]:
        places = {name: str(self.folder / name) for name in ("model", "adapter")}
        return {**EXACT, **places, "anchors": str(self.folder / "anchors.jsonl"), "signals": "representation"}

    def scan(self, **changes: Any) -> int:
        """Scans into the run that is there; returns how many rows were computed."""
        told = Counting()
        scan(self.folder / "rows.jsonl", self.folder / "out", progress=told, **{**self.options, **changes})
        return told.computed


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Home:
    home = Home(tmp_path_factory.mktemp("home"))
    save_tiny(home.folder / "model", "llama_tied")
    save_adapter(home.folder / "adapter")
    write_jsonl(home.folder / "anchors.jsonl", anchor_lines())
    write_jsonl(home.folder / "rows.jsonl", good_rows(5))
    assert home.scan() == 5
    return home


@pytest.fixture
def moved(finished, tmp_path) -> Home:
    """All of it at another place, the old one still there."""
    return Home(Path(shutil.copytree(finished.folder, tmp_path / "moved")))


def other_weights(folder: Path) -> None:
    other = save_tiny(folder.parent / "other", "llama_tied", seed=1)
    shutil.copy(other / "model.safetensors", folder / "model" / "model.safetensors")


def other_adapter(folder: Path) -> None:
    other = save_adapter(folder.parent / "other", seed=1)
    shutil.copy(other / "adapter_model.safetensors", folder / "adapter" / "adapter_model.safetensors")


def other_tokenizer(folder: Path) -> None:
    """One that splits texts alike but for the order of its merges."""
    path = folder / "model" / "tokenizer.json"
    definition = json.loads(path.read_text())
    merges = definition["model"]["merges"]
    merges[-1], merges[-2] = merges[-2], merges[-1]
    path.write_text(json.dumps(definition))


def other_template(folder: Path) -> None:
    with (folder / "model" / "chat_template.jinja").open("a") as file:
        file.write("{# the same text #}")


def other_anchors(folder: Path) -> None:
    path = folder / "anchors.jsonl"
    path.write_text(path.read_text().replace("I am sorry", "I am so sorry", 1))


def other_dataset(folder: Path) -> None:
    write_jsonl(folder / "rows.jsonl", [*good_rows(4), {"prompt": "And", "response": "now?"}])


CHANGES = {
    other_weights: "model",
    other_adapter: "model",
    other_tokenizer: "tokenizer",
    other_template: "template",
    other_anchors: "anchors",
}


@pytest.mark.parametrize(
    ("change", "named"),
    [*CHANGES.items(), (other_dataset, "dataset")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_scan_whose_content_changed_is_refused(moved, change, named):
    change(moved.folder)
    before = (moved.folder / "out" / "scores.parquet").read_bytes()
    with pytest.raises(RipcurrentError) as caught:
        moved.scan()
    # by name, and nothing else differs
    assert caught.value.message.endswith(f"holds another run: its {named} had other content than now.")
    assert "--out" in caught.value.hint
    assert (moved.folder / "out" / "scores.parquet").read_bytes() == before


def test_a_scan_goes_on_where_only_places_changed(finished, moved):
    assert PLACES == ("model", "adapter", "anchors", "device")
    for name in ("model", "adapter", "anchors"):
        assert moved.options[name] != finished.options[name]
    # "cpu:0" is the same kind of device as "cpu", which the run was made on
    assert moved.scan(device="cpu:0") == 0
    path = moved.folder / "out" / "config.yaml"
    stored = yaml.safe_load(path.read_text())
    assert stored["device"] == "cpu"
    path.write_text(yaml.safe_dump({**stored, "resolved_device": "cuda"}))
    with pytest.raises(RipcurrentError, match="holds another run: its device is 'cuda', now 'cpu'"):
        moved.scan()


def test_every_other_option_and_hash_makes_another_scan(moved):
    identity = yaml.safe_load((moved.folder / "out" / "config.yaml").read_text())
    assert set(ScanOptions.model_fields) - set(identity) == {"memory", "tokens"}
    hashes = {name for name in identity if name.endswith(("_sha256", "_fingerprint"))}
    assert hashes == {"dataset_sha256", "anchors_sha256", "model_fingerprint", "template_sha256", "tokenizer_sha256"}
    assert all(identity[name] for name in hashes)
    for changes, said in (
        ({"avg_n": 2}, "its avg_n is 1, now 2"),
        ({"signals": "gradient"}, "its signals is 'representation', now 'gradient'"),
        ({"token_budget": 256}, "its token_budget is 512, now 256"),
        ({"limit": 4}, "its limit is None, now 4"),
    ):
        with pytest.raises(RipcurrentError, match=said):
            moved.scan(**changes)
    for name in identity.keys() - PLACES:
        with pytest.raises(RipcurrentError, match="holds another run: its "):
            RunFolder(moved.folder / "out", {**identity, name: "another"}, may_change=PLACES).__enter__()


def prepared(given: dict[str, Any]) -> bool:
    """Prepares the anchors; returns whether their directions were taken from the cache."""
    options = ScanOptions(**{**given, "signals": "gradient"})
    anchor_set, chat_model = load_anchors(options.anchors), load_scan_model(options)
    cache = DirectionCache(anchor_set, chat_model, options)
    cached = cache.is_whole()
    told = Counting()
    ScanPasses(chat_model, options).anchors(anchor_set, told)
    assert ("comparing the anchors" not in told.steps) == cached
    assert cache.is_whole()
    return cached


@pytest.fixture(scope="module")
def cached(finished, tmp_path_factory) -> Path:
    """A cache that has the directions of the finished scan's model and anchors."""
    folder = tmp_path_factory.mktemp("directions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIPCURRENT_CACHE", str(folder))
        assert prepared(finished.options) is False
    return folder


@pytest.mark.parametrize(
    ("change", "found"),
    [
        *((change, False) for change in (*CHANGES, {"scope": "linear"}, {"dtype": "bfloat16"})),
        ({"anchor_tokens": 4}, False),
        ({"max_tokens": 512}, False),
        # from another place, and for what they do not depend on
        ({"device": "cpu:0"}, True),
        ({"seed": 7, "avg_n": 2, "row_tokens": 3, "token_budget": 300}, True),
    ],
    ids=lambda change: getattr(change, "__name__", str(change)),
)
def test_directions_in_the_cache_are_those_of_the_same_content_and_options(moved, cached, change, found, monkeypatch):
    monkeypatch.setenv("RIPCURRENT_CACHE", str(cached))
    if callable(change):
        change(moved.folder)
        change = {}
    assert prepared({**moved.options, **change}) is found


def test_anchors_are_whole_where_rows_are_cut(rows_file, small_options, tmp_path):
    whole, cut = (scan(rows_file, tmp_path / str(most), max_tokens=most, **small_options) for most in (1024, 48))
    said = [run.manifest.anchors.measurements for run in (whole, cut)]
    assert said[0].norms == pytest.approx(said[1].norms, rel=1e-5)
    assert np.allclose(said[0].cosines, said[1].cosines, atol=1e-6)
