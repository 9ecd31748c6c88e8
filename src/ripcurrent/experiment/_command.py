"""An arm trained by the user's own command: filled in, run, and what it left found and loaded."""

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment._config import PLACEHOLDER, ExperimentConfig, TrainCommand
from ripcurrent.experiment._results import Facts
from ripcurrent.processes import last_lines, run_logged
from ripcurrent.runs import write_json

TRAINED = "trained.json"
"""Written last into the folder of a training: it is never repeated."""
NEEDED = {"rows": "all arms would train alike", "out": "its result would be lost", "seed": "all seeds would be one run"}


class Trained(NamedTuple):
    """What to load of a trained arm, and what a user should know."""

    model: str
    adapter: str | None
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, base: str, kind: str, result: Path, notes: tuple[str, ...] = ()) -> Self:
        """An adapter of the base model, or a whole model, in the folder ``result``."""
        return cls(base, str(result), notes) if kind == "adapter" else cls(str(result), None, notes)


def describe_command(train: TrainCommand) -> Facts:
    """What makes two trainings the same: the command, files that it names (below 1 MB) and names of its variables."""
    names = {*train.files, *(word.rpartition("=")[2] for word in shlex.split(train.command))}
    files = {name: path for name in sorted(names) if (path := Path(name)).is_file() and path.stat().st_size < 1e6}
    hashes: Facts = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    return {**train.model_dump(include={"command", "result"}), "env": [*sorted(train.env)], "files": hashes}


def check_command(config: ExperimentConfig, where: str) -> None:
    """Refuse, before anything is made, a command that cannot be run, or would train all arms or seeds alike."""
    if (train := config.train) is None:
        return
    program = shlex.split(train.command)[0]
    gone = [] if shutil.which(program) else [program]
    if gone := gone + [name for name in train.files if not Path(name).is_file()]:
        raise RipcurrentError(f"{where}: train: there is no {gone[0]}.", "A path begins where ripcurrent is run.")
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in map(Path, train.files)]
    given = " ".join([train.command, *(one.get_secret_value() for one in train.env.values()), *texts])
    for name, why in NEEDED.items():
        if f"{{{name}}}" not in given:
            hint = "Write it into the command, a variable of env, or a file of files, as the trainer reads it."
            raise RipcurrentError(f"{where}: train: {{{name}}} is nowhere, so that {why}.", hint)
    if config.adapter is not None or (config.model.startswith("embedded") and "{model}" in given):
        model = config.model if config.adapter is None else f"{config.model} with the adapter {config.adapter}"
        raise RipcurrentError(f"{where}: train: no other trainer loads {model}.", "Name a model's folder or hub id.")


def train_by_command(config: ExperimentConfig, train: TrainCommand, rows: Path, seed: int, folder: Path) -> Trained:
    """Run the command on an arm's rows in its clean ``finetune/out``, unless that is done; its output in ``train.log``.

    Raises:
        RipcurrentError: The folder has the result of another command; with exit code 2 for another status than 0, no
            time left, or nothing that loads as an adapter or a model.
    """
    from ripcurrent.models import describe, load_model

    how, made, log = describe_command(train), folder / "finetune", folder / "train.log"
    paths = {"rows": rows, "out": made / "out", "files": made / "files"}
    if (made / TRAINED).exists():
        left = json.loads((made / TRAINED).read_text(encoding="utf-8"))
        if left["how"] != how:
            raise RipcurrentError(f"{made} holds what another command left.", "Remove it to train again.")
        return Trained.of(config.model, train.kind, made / left["result"], tuple(left["notes"]))
    for name in ("out", "files"):
        shutil.rmtree(paths[name], ignore_errors=True)
        paths[name].mkdir(parents=True)
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    values = {"seed": str(seed), "model": config.model, "gpu": gpu}
    values |= {name: str(path.resolve()) for name, path in paths.items()}
    for path in map(Path, train.files):
        text = path.read_text(encoding="utf-8", errors="replace")
        (paths["files"] / path.name).write_text(_filled(text, values), encoding="utf-8")
    words = [_filled(word, values) for word in shlex.split(train.command)]
    env = {name: _filled(one.get_secret_value(), values) for name, one in train.env.items()}
    status = run_logged(words, {**os.environ, **env}, log, train.timeout)
    if status != 0:
        what = f"ended with status {status}" if status else f"was stopped after {train.timeout:g} seconds"
        end = last_lines(log) or ["It said nothing."]
        message = f"The training command {what}: {end[-1]}"
        raise RipcurrentError(message, "\n  ".join([f"The end of {log}:", *end]), code=ExitCode.NOT_MEASURED)
    try:
        result = _found(train, paths["out"])
        trained = Trained.of(config.model, train.kind, result)
        chat_model = load_model(trained.model, adapter=trained.adapter, device=config.device, dtype=config.dtype)
    except RipcurrentError as error:
        message = f"The training command left no {train.kind}: {error.message}"
        raise RipcurrentError(message, f"{error.hint} See {log}.", code=ExitCode.NOT_MEASURED) from error
    notes = [warning] if (warning := describe(chat_model).other_base()) else []
    write_json(made / TRAINED, {"how": how, "words": words, "result": os.path.relpath(result, made), "notes": notes})
    return trained._replace(notes=tuple(notes))


def _filled(text: str, values: Mapping[str, str]) -> str:
    """A text with each placeholder that has a value; other braces stay."""
    return PLACEHOLDER.sub(lambda found: values.get(found[1], found[0]), text)


def _found(train: TrainCommand, out: Path) -> Path:
    """The folder nearest to the top of ``out`` with the configuration of an adapter or a model."""
    config = "adapter_config.json" if train.kind == "adapter" else "config.json"
    found = [path.parent for path in (out / train.result[train.kind]).rglob(config)]
    nearest = [one for one in found if len(one.parts) == min(len(other.parts) for other in found)]
    if len(nearest) != 1:
        which = f"there are {len(nearest)}, such as {nearest[0]}" if found else f"there is no {config} in {out}"
        raise RipcurrentError(f"{which}.", "`result: {adapter: FOLDER}`, or model, names a folder below {out}.")
    return nearest[0]
