"""The run directory: one run in one folder, whole files, a lock."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import MANIFEST, RunFolder, read_config, read_manifest, write_json, written_whole

CONFIG: dict[str, Any] = {"model": "tiny", "layer": None, "mapping": {"prompt": "frage"}, "seed": 0, "note": "größer"}


def refused(folder: Path, config: dict[str, Any], *parts: str) -> None:
    with pytest.raises(RipcurrentError) as caught, RunFolder(folder, config):
        pytest.fail("entered")
    assert [part for part in parts if part not in str(caught.value)] == []
    assert caught.value.hint


def started(folder: Path, config: dict[str, Any] = CONFIG) -> Path:
    """A folder with a run that left a result."""
    with RunFolder(folder, config):
        write_json(folder / MANIFEST, {"rows": "größer"})
    return folder


def test_a_new_folder_is_made_with_its_parents_and_the_same_run_goes_on(tmp_path):
    folder = started(tmp_path / "runs" / "mine")
    assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) == CONFIG
    assert all("größer" in (folder / name).read_text(encoding="utf-8") for name in ("config.yaml", MANIFEST))
    with RunFolder(folder, dict(reversed(CONFIG.items()))) as run:
        assert read_manifest(run.folder) == {"rows": "größer"}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 1}, "holds another run: its seed is 0, now 1"),
        ({"model": "other"}, "its model is 'tiny', now 'other'"),
        ({"mapping": {"prompt": "query"}}, "its mapping had other content"),
        ({"layer": 3, "seed": 2}, "its layer is None, now 3 (these differ too: seed)"),
        ({"extra": True}, "its extra is None, now True"),
        # hashes are not shown
        ({"anchors_sha256": "xyz"}, "its anchors had other content than now"),
        ({"model_fingerprint": "uvw"}, "its model had other content than now"),
        ({"command": "evaluate"}, "holds a run of scan, not of evaluate."),
    ],
)
def test_another_run_is_refused_naming_what_differs(tmp_path, changed, said):
    own = {**CONFIG, "anchors_sha256": "abc", "model_fingerprint": "def"}
    started(tmp_path, own)
    before = (tmp_path / "config.yaml").read_bytes()
    refused(tmp_path, {**own, **changed}, said, "--out")
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_a_run_that_left_nothing_gives_way_to_other_options(tmp_path):
    def enter(seed: int) -> None:
        with RunFolder(tmp_path, {**CONFIG, "seed": seed}, no_results=("plan*.json",)):
            pass

    # one that died while it wrote its options
    (tmp_path / ".lock").touch()
    (tmp_path / "config.yaml.part").write_text("model: ti")
    enter(seed=0)
    assert not (tmp_path / "config.yaml.part").exists()
    (tmp_path / "signals").mkdir()
    (tmp_path / "signals" / "shard-00000.parquet.part").write_bytes(b"torn")
    # opened and never written
    (tmp_path / "responses.partial.jsonl").touch()
    # what a file browser leaves
    for place in (tmp_path, tmp_path / "signals"):
        (place / ".DS_Store").write_bytes(b"Bud1")
    plan = tmp_path / "plan-1.json"
    plan.write_text("{}")
    enter(seed=0)
    assert plan.exists(), "the same run goes on with its plan"
    enter(seed=1)
    assert read_config(tmp_path)["seed"] == 1
    assert not plan.exists(), "it was decided for another run's options"
    plan.write_text("{}")
    (tmp_path / "shard.parquet").write_bytes(b"1")
    with pytest.raises(RipcurrentError, match="holds another run"):
        enter(seed=2)
    assert plan.exists()


def test_damaged_and_missing_options_and_manifest(tmp_path):
    for folder, hint in ((tmp_path, "--out"), (tmp_path / "nowhere", "Check the path")):
        with pytest.raises(RipcurrentError, match=rf"holds no finished run.*\n.*{hint}"):
            read_manifest(folder)
    started(tmp_path)
    (tmp_path / "config.yaml").write_text("model: [")
    refused(tmp_path, CONFIG, "config.yaml is damaged")
    (tmp_path / "manifest.json").write_text('{"rows": ')
    with pytest.raises(RipcurrentError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


def test_a_folder_in_use_is_refused_and_free_again_when_that_run_dies(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from ripcurrent.runs import RunFolder\n"
        "with RunFolder(Path(sys.argv[1]), {'seed': 0}): print('in', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"in\n"
            refused(tmp_path, {"seed": 0}, "Another run is at work", "Wait for it to end")
        finally:
            holder.kill()
    # as it is after an error and after a refusal
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path, {"seed": 0}):
        raise KeyboardInterrupt
    started(tmp_path, {"seed": 0})
    refused(tmp_path, {"seed": 9}, "holds another run")
    started(tmp_path, {"seed": 0})


NO_SPACE = r"table cannot be written: No space left on device\.\nFree some space"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyboardInterrupt("stop"), "stop"),
        # as the system and as pyarrow say it
        (OSError(28, "No space left on device"), NO_SPACE),
        (OSError("Error. Detail: [errno 28] No space left on device."), NO_SPACE),
        (OSError(28, "Error. Detail: [errno 28] No space left on device"), NO_SPACE),
    ],
)
def test_a_file_written_halfway_leaves_the_old_one(tmp_path, error, said):
    path = tmp_path / "deep" / "table"
    with written_whole(path) as part:
        part.write_text("old")

    def fail_halfway() -> None:
        with written_whole(path) as part:
            part.write_text("half of the ne")
            raise error

    with pytest.raises((type(error), RipcurrentError), match=said):
        fail_halfway()
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["table"]
