"""Inspect both ways, by its own runner, reader and model interface: tasks, scorers, logs written and read."""

from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.cli import run
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate import EvaluationRun, evaluate
from tests.evaluate.scripted_server import completion, serve
from tests.scan_fixtures import write_jsonl

inspect_ai = pytest.importorskip("inspect_ai", reason="the extra inspect is not installed")
from inspect_ai.log import EvalLog, read_eval_log, write_eval_log  # noqa: E402
from inspect_ai.model import ContentReasoning, ModelOutput, ModelUsage, get_model  # noqa: E402
from inspect_ai.scorer import match  # noqa: E402

from ripcurrent.integrations.inspect import prompts, write_log  # noqa: E402

REFUSAL = "I'm sorry, but I can't help with that."
AXES = ["harmful", "harmful", "sounds_dangerous", "plain"]


def said(content: Any, stop: Any = "stop") -> ModelOutput:
    # without a usage the mock counts tokens, with a vocabulary from the network
    output = ModelOutput.from_content("mockllm/model", content, stop)
    return output.model_copy(update={"usage": ModelUsage(output_tokens=3)})


def logged(task: inspect_ai.Task, folder: Path, *outputs: ModelOutput, **options: Any) -> EvalLog:
    """The log of Inspect's own run, with a model that says these in turn."""
    model = get_model("mockllm/model", custom_outputs=cycle(outputs), memoize=False)
    (log,) = inspect_ai.eval(task, model=model, log_dir=str(folder), display="none", max_samples=1, **options)
    return log


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory) -> Path:
    rows = [{"id": f"q{n}", "prompt": f"Is {n} a number?", "axis": axis} for n, axis in enumerate(AXES)]
    return write_jsonl(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", rows)


@pytest.fixture(scope="module")
def evaluated(prompts_file) -> EvaluationRun:
    def script(body: dict[str, Any]) -> Any:
        refuses = "1" in body["messages"][-1]["content"]
        return completion(REFUSAL) if refuses else completion("Surely it is.", finish_reason="length")

    with serve(script) as server:
        out = prompts_file.parent / "run"
        return evaluate("m", endpoint=server.url, prompts=[prompts_file], system="Be brief.", out=out)


def test_our_prompts_are_a_task_whose_judges_give_our_rates(tmp_path, prompts_file):
    outputs = [said("Surely.", "max_tokens"), said(REFUSAL), said("", "content_filter"), said("")]
    log = logged(prompts(source=str(prompts_file)), tmp_path, *outputs)
    assert (log.status, log.plan.config.temperature, log.plan.config.max_tokens) == ("success", 0.0, 64)
    shares = {one.name: {axis: share.value for axis, share in one.metrics.items()} for one in log.results.scores}
    assert shares == {name: {"harmful": 0.5, "plain": 0.0} for name in ("prefix", "keyword")}
    labels = [one.scores["prefix"].metadata["label"] for one in log.samples]
    assert labels == ["compliance", "refusal", "unjudged", "degenerate"]
    back = evaluate(answers=log.location, out=tmp_path / "back")
    assert [one.label for one in back.verdicts["prefix"]] == labels
    rates = back.rates["prefix"]
    assert (rates["harmful"].answered, rates["harmful"].truncated, rates["sounds_dangerous"].rejected) == (0.5, 0.5, 1)
    assert (back.manifest.model.name, back.manifest.generation["max_new_tokens"]) == ("mockllm/model", 64)


def test_an_evaluation_comes_back_from_the_log_that_it_writes(tmp_path, evaluated, capsys):
    write_log(evaluated, tmp_path / "shown.eval", reveal=True)
    again = evaluate(answers=tmp_path / "shown.eval", out=tmp_path / "again")
    assert (again.prompts, again.responses) == (evaluated.prompts, evaluated.responses)
    assert (again.verdicts, again.rates) == (evaluated.verdicts, evaluated.rates)
    log = read_eval_log(tmp_path / "shown.eval")
    assert {one.name: one.metrics["harmful"].value for one in log.results.scores} == {"prefix": 0.5, "keyword": 0.5}
    assert [turn.text for turn in log.samples[1].messages] == ["Be brief.", "Is 1 a number?", REFUSAL]
    # the command judges it with one more judge, and hides what answers harmful requests
    hidden = tmp_path / "hidden.eval"
    given = ["evaluate", "--from", tmp_path / "shown.eval", "--out", tmp_path / "again", "--inspect-log", hidden]
    assert run(list(map(str, given))) == ExitCode.OK
    kept = [(one.output.completion, one.scores["prefix"].metadata["label"]) for one in read_eval_log(hidden).samples]
    assert kept[1] == (f"[withheld: an answer of {len(REFUSAL)} characters; --reveal writes it]", "refusal")
    assert kept[2:] == [("Surely it is.", "compliance")] * 2
    note = evaluate(answers=hidden, out=tmp_path / "rest").manifest.notes[0]
    assert note.startswith("hidden.eval: 2 of 4 samples withhold the answer (the log was written without --reveal)")


def test_epochs_errors_and_logs_that_ended_early_are_told(tmp_path):
    says = [{}, {"label": "safe"}, {"label": "safe"}]
    asked = [inspect_ai.dataset.Sample(id=n, input=f"Is {n} a number?", metadata=of) for n, of in enumerate(says)]
    thought = [ContentReasoning(reasoning="Well, the user")]
    outputs = [said("Yes."), said("Sure."), said(thought, "max_tokens"), said(REFUSAL), said("Yes."), said("Yes.")]
    log = logged(inspect_ai.Task(dataset=asked, scorer=match()), tmp_path, *outputs, epochs=2)
    log.status, log.samples[-1].output = "cancelled", ModelOutput()
    log.samples[0].error = inspect_ai.log.EvalError(message="", traceback="", traceback_ansi="")
    place = tmp_path / "early.eval"
    write_eval_log(log, place)
    found = evaluate(answers=place, axis="plain", out=tmp_path / "run")
    assert len(found.prompts) == len({prompt.id for prompt in found.prompts}) == 4
    assert found.rates["prefix"]["sounds_dangerous"].degenerate == 1 / 3, "a thought without an answer"
    for note in ("1 of 6 samples ended in an error", "1 of 6 samples have no output", "status 'cancelled'", "2 epochs"):
        assert note in " ".join(found.manifest.notes)
    first = evaluate(answers=place, axis="plain", limit=1, out=tmp_path / "first")
    assert {prompt.text for prompt in first.prompts} == {"Is 0 a number?", "Is 1 a number?"}
    log.samples = [one for one in log.samples if one.error is not None]
    write_eval_log(log, place)
    with pytest.raises(RipcurrentError, match=r"holds no answer to judge in its 1 samples(.|\n)*1 of 1 samples ended"):
        evaluate(answers=place, out=tmp_path / "none")


def test_what_is_no_log_or_asks_too_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for given, what in (
        ("--from none.eval", "There is no file none.eval"),
        ("--from text.eval", "Inspect cannot read text.eval"),
        ("--from text.txt", "text.txt is no Inspect log by its name"),
        ("--from text.eval --system Hi", "--from judges answers that are there, so --system has nothing to do"),
        ("--from text.eval --model x", "--from asks no model, and --model x is given"),
        ("--inspect-log log.txt", "log.txt is no Inspect log by its name"),
    ):
        Path("text.eval").write_text("{}")
        assert run(["evaluate", "--out", "run", *given.split()]) == ExitCode.USAGE
        assert what in capsys.readouterr().err
