"""The run directory: one run in one folder, whole files, a lock."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import MANIFEST, RunFolder, read_manifest, refuse_other_cut, write_json, written_whole

CONFIG: dict[str, Any] = {"model": "tiny", "layer": None, "mapping": {"prompt": "frage"}, "seed": 0, "note": "größer"}


def refused(folder: Path, config: dict[str, Any], *parts: str) -> None:
    with pytest.raises(RipcurrentError) as caught, RunFolder(folder, config):
        pytest.fail("entered")
    for part in parts:
        assert part in str(caught.value)
    assert caught.value.hint


def started(folder: Path) -> Path:
    """A folder with a run that left a result."""
    with RunFolder(folder, CONFIG):
        write_json(folder / MANIFEST, {"rows": 3})
    return folder


def test_a_new_folder_is_made_with_its_parents_and_the_resolved_options(tmp_path: Path) -> None:
    folder = started(tmp_path / "runs" / "mine")
    assert yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")) == CONFIG
    assert "größer" in (folder / "config.yaml").read_text(encoding="utf-8")
    assert read_manifest(folder) == {"rows": 3}


def test_an_empty_folder_is_taken_and_the_same_run_goes_on(tmp_path: Path) -> None:
    started(tmp_path)
    with RunFolder(tmp_path, dict(reversed(CONFIG.items()))) as run:
        assert read_manifest(run.folder) == {"rows": 3}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 1}, "its seed is 0, now 1"),
        ({"model": "other"}, "its model is 'tiny', now 'other'"),
        ({"mapping": {"prompt": "query"}}, "its mapping had other content"),
        ({"layer": 3, "seed": 2}, "its layer is None, now 3 (these differ too: seed)"),
        ({"extra": True}, "its extra is None, now True"),
    ],
)
def test_another_run_is_refused_naming_what_differs(tmp_path: Path, changed: dict[str, Any], said: str) -> None:
    started(tmp_path)
    before = (tmp_path / "config.yaml").read_bytes()
    refused(tmp_path, {**CONFIG, **changed}, "holds another run", said, "--out")
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_a_folder_of_another_command_is_named_by_it(tmp_path: Path) -> None:
    started(tmp_path)
    refused(tmp_path, {"command": "evaluate", "model": "tiny"}, "holds a run of scan, not of evaluate.", "--out")


def test_hashes_are_not_shown(tmp_path: Path) -> None:
    with RunFolder(tmp_path, {"anchors_sha256": "abc", "model_fingerprint": "def"}):
        write_json(tmp_path / MANIFEST, {})
    refused(tmp_path, {"anchors_sha256": "xyz", "model_fingerprint": "def"}, "its anchors had other content than now")
    refused(tmp_path, {"anchors_sha256": "abc", "model_fingerprint": "uvw"}, "its model had other content than now")


def test_a_run_that_left_nothing_gives_way_to_other_options(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="anchors"), RunFolder(tmp_path, CONFIG):
        raise ValueError("anchors do not separate")
    (tmp_path / "signals").mkdir()
    (tmp_path / "signals" / "shard-00000.parquet.part").write_bytes(b"torn")
    # opened and never written
    (tmp_path / "responses.partial.jsonl").touch()
    # what a file browser leaves
    for place in (tmp_path, tmp_path / "signals"):
        (place / ".DS_Store").write_bytes(b"Bud1")
    with RunFolder(tmp_path, {**CONFIG, "seed": 1}):
        pass
    assert yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))["seed"] == 1


def test_what_another_run_decided_for_its_options_goes_with_them(tmp_path: Path) -> None:
    def enter(**changed: Any) -> None:
        with RunFolder(tmp_path, {**CONFIG, **changed}, no_results=("plan*.json",)):
            pass

    enter()
    (tmp_path / "plan-1.json").write_text("{}")
    enter()
    assert (tmp_path / "plan-1.json").exists(), "the same run goes on with its plan"
    enter(seed=1)
    assert not (tmp_path / "plan-1.json").exists()
    (tmp_path / "plan-1.json").write_text("{}")
    (tmp_path / "shard.parquet").write_bytes(b"1")
    with pytest.raises(RipcurrentError, match="holds another run"):
        enter(seed=2)
    assert (tmp_path / "plan-1.json").exists()


def test_a_run_that_died_while_writing_its_options_can_be_repeated(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "config.yaml.part").write_text("model: ti")
    started(tmp_path)
    assert not (tmp_path / "config.yaml.part").exists()


def test_damaged_options_and_manifest(tmp_path: Path) -> None:
    started(tmp_path)
    (tmp_path / "config.yaml").write_text("model: [")
    refused(tmp_path, CONFIG, "config.yaml is damaged")
    (tmp_path / "manifest.json").write_text('{"rows": ')
    with pytest.raises(RipcurrentError, match=r"manifest\.json is damaged"):
        read_manifest(tmp_path)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(RipcurrentError, match=r"holds no finished run.*\n.*--out"):
        read_manifest(tmp_path)
    with pytest.raises(RipcurrentError, match=r"holds no finished run.*\nCheck the path"):
        read_manifest(tmp_path / "nowhere")


def test_a_folder_in_use_is_refused_and_free_again_when_that_run_dies(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ripcurrent.runs import RunFolder\n"
        "with RunFolder(Path(sys.argv[1]), {'seed': 0}): print('in', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in\n"
        refused(tmp_path, {"seed": 0}, "Another run is at work", "Wait for it to end")
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()  # type: ignore[union-attr]
    with RunFolder(tmp_path, {"seed": 0}):
        pass


def test_the_lock_is_freed_after_an_error_and_after_a_refusal(tmp_path: Path) -> None:
    started(tmp_path)
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path, CONFIG):
        raise KeyboardInterrupt
    refused(tmp_path, {**CONFIG, "seed": 9}, "holds another run")
    with RunFolder(tmp_path, CONFIG):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("bad"), OSError(28, "No space left on device")])
def test_a_file_written_halfway_leaves_the_old_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "deep" / "table"
    with written_whole(path) as part:
        part.write_text("old")

    def fail_halfway() -> None:
        with written_whole(path) as part:
            part.write_text("half of the ne")
            raise error

    with pytest.raises((type(error), RipcurrentError)):
        fail_halfway()
    assert path.read_text() == "old"
    assert [entry.name for entry in path.parent.iterdir()] == ["table"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        OSError("Error. Detail: [errno 28] No space left on device."),
        OSError(28, "Error. Detail: [errno 28] No space left on device"),
    ],
)
def test_a_file_that_cannot_be_written_is_named_with_the_systems_reason(tmp_path: Path, error: OSError) -> None:
    said = r"table cannot be written: No space left on device\.\nFree some space"
    with pytest.raises(RipcurrentError, match=said), written_whole(tmp_path / "table"):
        raise error


def test_json_is_readable_text(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "größer", "values": [1.5, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8").startswith('{\n  "name": "größer",')


def test_one_task_of_an_array_that_is_given_again_alone_is_not_the_whole(tmp_path: Path) -> None:
    """Its scheduler then says that it is the only one, and it would score every row."""
    refuse_other_cut(None, "0/1")
    refuse_other_cut(tmp_path, "0/1")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "0-of-1.json").write_text("{}")
    refuse_other_cut(tmp_path, "0/1")
    (tmp_path / "parts" / "2-of-8.json").write_text("{}")
    refuse_other_cut(tmp_path, "3/8")
    with pytest.raises(RipcurrentError, match="holds part 2 of 8") as caught:
        refuse_other_cut(tmp_path, "0/1")
    assert "--shard i/8" in caught.value.hint
