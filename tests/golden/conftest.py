"""Small files, and the finished runs that several tests look at."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.golden.small import asked_for_json, asked_prompts, plain_rows, ripcurrent
from tests.models.tiny import save_tiny
from tests.scan_fixtures import anchor_lines, write_jsonl


@dataclass(frozen=True)
class Files:
    """What commands are given."""

    folder: Path
    model: Path
    rows: Path
    anchors: Path
    prompts: Path
    recipe: Path

    @property
    def tiny(self) -> list[str]:
        """Options that name the tiny model."""
        return ["--model", str(self.model), "--device", "cpu", "--dtype", "float32"]

    def scan(self, out: Path) -> list[Any]:
        """A scan in shards of four rows, without a word."""
        own = ["--anchors", self.anchors, "--no-anchor-check", "--shard-rows", 4, "--quiet"]
        return ["scan", self.rows, *self.tiny, *own, "--out", out]

    def finetune(self, out: Path) -> list[Any]:
        """A short training that leaves a checkpoint at every step."""
        own = ["--recipe", self.recipe, "--checkpoint-minutes", 0, "--quiet"]
        return ["finetune", self.rows, *self.tiny, *own, "--out", out]

    def evaluate(self, out: Path) -> list[Any]:
        """Sixty prompts, answered in small batches."""
        own = ["--prompts", self.prompts, "--max-new-tokens", 6, "--batch-size", 4, "--quiet"]
        return ["evaluate", *self.tiny, *own, "--out", out]

    def experiment(self, run: Path, judge: str = "keyword") -> Path:
        """An experiment's file: three arms with two seeds on the rows of a scan."""
        path = self.folder / f"experiment-{judge}.yaml"
        path.write_text(
            f"name: small\nmodel: {self.model}\ndevice: cpu\ndtype: float32\nrun: {run}\nrecipe: {self.recipe}\n"
            f"size: 8\nseeds: [0, 1]\nheldout: 6\nmax_new_tokens: 4\nbatch_size: 4\njudges: [{judge}]\n"
            f"prompts: [{{source: {self.prompts}}}]\n"
            "arms: {random: random, top: top, length: {length_matched: top}}\n"
        )
        return path


@pytest.fixture(scope="session")
def files(tmp_path_factory, shared_cache) -> Files:
    """A tiny model, sixty rows, anchors, prompts and a recipe."""
    folder = tmp_path_factory.mktemp("golden")
    recipe = folder / "short.yaml"
    recipe.write_text("method: full\nlearning_rate: 1.0e-3\nbatch: 4\nsteps: 8\n")
    return Files(
        folder,
        save_tiny(folder / "tiny", "llama_tied"),
        write_jsonl(folder / "rows.jsonl", plain_rows(60)),
        write_jsonl(folder / "anchors.jsonl", anchor_lines()),
        write_jsonl(folder / "prompts.jsonl", asked_prompts()),
        recipe,
    )


@dataclass(frozen=True)
class Done:
    """A command that ran to its end without a stop."""

    folder: Path
    json: dict[str, Any]
    code: int = 0


@pytest.fixture(scope="session")
def scanned(files) -> Done:
    out = files.folder / "scan"
    return Done(out, asked_for_json(*files.scan(out)))


@pytest.fixture(scope="session")
def trained(files) -> Done:
    out = files.folder / "finetune"
    return Done(out, asked_for_json(*files.finetune(out)))


@pytest.fixture(scope="session")
def evaluated(files) -> Done:
    out = files.folder / "evaluate"
    return Done(out, asked_for_json(*files.evaluate(out)))


@pytest.fixture(scope="session")
def experimented(files, scanned) -> Done:
    """A whole experiment, on whose answers nothing can be decided."""
    out = files.folder / "experiment"
    said = ripcurrent("experiment", files.experiment(scanned.folder), "--quiet", "--json", "--out", out)
    assert said.code in (0, 4), said.err
    return Done(out, said.json, said.code)
