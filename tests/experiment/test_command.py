"""Arms trained by a command of the user's, and several arms at a time."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.processes import run_logged
from ripcurrent.runs import read_json_lines
from tests.experiment.conftest import run
from tests.models.test_adapter import save_adapter
from tests.models.tiny import save_tiny

NEEDED = "true {rows} {out} {seed}"


@pytest.fixture(scope="session")
def adapter(tmp_path_factory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("made") / "adapter")


@pytest.fixture
def trained(keys, evaluated, adapter) -> dict[str, Any]:
    """An experiment whose trainer copies an adapter."""
    del keys["recipe"]
    command = f"sh -c '{NEEDED} && cp -r {adapter} {{out}}/last'"
    return {**keys, "arms": {"random": "random", "top": "top"}, "seeds": [0], "train": command}


def test_arms_are_trained_by_a_command(trained, evaluated, tmp_path, adapter, monkeypatch):
    file, out = tmp_path / "cfg.yml", tmp_path / "out"
    file.write_text("{rows}\nmodel: {model}\ntemplate: {{ kept }}\n")
    command = f"sh -c 'echo $WHO {{seed}} && cat {{files}}/cfg.yml && cp -r {adapter} {{out}}/last'"
    trained["train"] = {"command": command, "files": str(file), "env": {"WHO": "secret-{seed}"}}
    with monkeypatch.context() as patch:
        patch.setattr(import_module("ripcurrent.experiment._command"), "_found", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(trained, out)
    (left := out / "arms" / "random-seed0" / "finetune" / "out" / "last" / "of_the_killed").touch()
    found = run({**trained, "keep_models": True}, out)
    assert (left.exists(), found.complete, found.recipe) == (False, True, command)
    base, *_, top = ([call["model"], call["adapter"]] for call in evaluated.calls)
    assert (base, top[0], Path(top[1]).name) == ([trained["model"], None], trained["model"], "last")
    said, rows, *rest = (out / "arms" / "top-seed0" / "train.log").read_text().splitlines()
    assert (said, rest) == ("secret-0 0", [f"model: {trained['model']}", "template: {{ kept }}"])
    assert len(read_json_lines(Path(rows))) == 8
    assert not [one for one in out.glob("*.json") if "secret-" in one.read_text()]
    file.write_text("{rows}\nmodel: another\n")
    with pytest.raises(RipcurrentError, match=r"holds arm \w+ with another command than now"):
        run(trained, out)
    assert len(evaluated.calls) == 3


def sh(does: str) -> str:
    return f"sh -c '{NEEDED}; {does}'"


@pytest.mark.parametrize(
    ("command", "change", "says"),
    [
        (sh("echo first; echo no such column >&2; exit 3"), {}, ("status 3: no such column", "train.log", "first")),
        (sh("sleep 60"), {"timeout": 0.2}, ("was stopped after 0.2 seconds",)),
        (sh("cp -r ADAPTER {out}/a; cp -r ADAPTER {out}/b"), {}, ("there are 2, such as", "{adapter: FOLDER}")),
        (sh("cp -r ADAPTER {out}; cd {out}/*; mv *.safetensors adapter_model.bin"), {}, ("no adapter_model.safet",)),
        (sh("cp -r OTHER {out}"), {}, ("does not fit",)),
        (sh("cp -r ADAPTER {out}"), {"result": "model"}, ("left no model: there is no config.json",)),
        ("nonesuch {rows} {out} {seed}", {}, ("train: there is no nonesuch",)),
        (NEEDED, {"files": "gone.yml"}, ("there is no gone.yml",)),
        ("true {rows} {out}", {}, ("{seed} is nowhere, so that all seeds would be one run",)),
        (f"{NEEDED} {{model}}", {"model": "embedded"}, ("no other trainer loads embedded",)),
        (NEEDED, {"recipe": "lora"}, ("give either recipe or train",)),
    ],
)
def test_a_command_that_cannot_be_run_or_fails_at_once_stops_all(command, change, says, trained, adapter, tmp_path):
    command = command.replace("ADAPTER", str(adapter)).replace("OTHER", str(save_adapter(tmp_path / "other", "gpt2")))
    keys = {"command": command, **change}
    train = {key: keys.pop(key) for key in ("command", "files", "result", "timeout") if key in keys}
    with pytest.raises(RipcurrentError) as caught:
        run({**trained, **keys, "train": train}, tmp_path / "out")
    assert all(part in str(caught.value) for part in says), str(caught.value)
    assert (caught.value.code == ExitCode.NOT_MEASURED) == (tmp_path / "out").exists() == ("sh" in command)
    if "status" in says[0]:
        assert run(trained, tmp_path / "out").complete, "what was wrong may be mended"


def test_a_command_that_fails_later_fails_its_arm(trained, evaluated, adapter, tmp_path):
    model = save_tiny(tmp_path / "whole", "llama_tied", seed=3)
    does = f"case {{rows}} in *top*) exit 3;; esac; cp -r {model} {{out}}/m; cp -r {model} {{out}}/m/deeper"
    arms = {"random": "random", "top": "top", "bottom": {"select": "bottom"}}
    command = {"command": f"sh -c '{NEEDED}; {does}'", "result": {"model": "m"}}
    found = run({**trained, "arms": arms, "train": command}, tmp_path / "out")
    assert [(one.name, "status 3" in str(one.reason)) for one in found.failed] == [("top", True)]
    asked = [(call["arm"], Path(call["model"]).name, call["adapter"]) for call in evaluated.calls[1:]]
    assert asked == [("random-seed0", "m", None), ("bottom-seed0", "m", None)]
    assert not list((tmp_path / "out").glob("arms/*/finetune/out")), "the models are gone"


def test_what_a_program_started_ends_with_it(tmp_path):
    assert run_logged(["sh", "-c", "sleep 300 & echo $!; wait"], {}, tmp_path / "log", 0.5) is None
    child = (tmp_path / "log").read_text().strip()
    assert subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True).stdout[:1] in ("", "Z")


def test_several_at_a_time_give_the_results_of_one_after_another(keys, tmp_path):
    keys |= {"arms": {"random": "random", "top": "top"}, "seeds": [0], "max_new_tokens": 2}
    keys["prompts"] = [{**keys["prompts"][0], "limit": 4}]
    one, two = (run(keys, tmp_path / str(jobs), jobs=jobs) for jobs in (1, 2))
    assert two == one.model_copy(update={"folder": two.folder})
    # an error in a process is that of the experiment
    keys |= {"train": f"{sys.executable} -c 1 {{rows}} {{out}} {{seed}}", "recipe": ""}
    with pytest.raises(RipcurrentError, match=r"Arm \w+: The training command left no adapter"):
        run(keys, tmp_path / "failed", jobs=2)
