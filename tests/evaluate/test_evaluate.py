"""Evaluation end to end on tiny models and real servers: answers kept, resumed, judged anew, rates by axis."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest

from ripcurrent.cli import run
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate import Axis, EvaluationRun, JudgeSettings, Prompt, Verdict, evaluate, find_judges, judge_again
from ripcurrent.evaluate._measured import judge_errors
from ripcurrent.evaluate._prompts import gather_prompts
from ripcurrent.evaluate._rates import summarise
from ripcurrent.evaluate._ratings import read_answers
from ripcurrent.evaluate._responses import PARTIAL, Response, ResponseLog
from ripcurrent.evaluate.judges import Label
from ripcurrent.statistics import rogan_gladen
from tests.evaluate.scripted_server import Answered, Script, completion, error, free_port, serve
from tests.models.tiny import save_tiny
from tests.scan_fixtures import write_jsonl

EXACT: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_new_tokens": 6}


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory) -> Path:
    axes = ["harmful"] * 5 + ["sounds_dangerous"] * 3 + ["plain"] * 2
    rows = [{"id": f"q{n}", "prompt": f"Request number {n}?" + " please" * n, "axis": a} for n, a in enumerate(axes)]
    return write_jsonl(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", rows)


@pytest.fixture(scope="module")
def whole(tiny_folder, prompts_file) -> EvaluationRun:
    """An evaluation without a stop."""
    return evaluate(str(tiny_folder), prompts=[prompts_file], out=prompts_file.parent / "whole", **EXACT)


def served(script: Script, prompts: Path, out: Path, **options: Any) -> EvaluationRun:
    """The evaluation of what such a server answers."""
    with serve(script) as server:
        return evaluate("m", endpoint=server.url, prompts=[prompts], out=out, **options)


def number_in(body: dict[str, Any]) -> int:
    return int(re.findall(r"number (\d+)", body["messages"][-1]["content"])[0])


def test_tables_hold_the_contract_and_come_back(whole):
    responses, verdicts = (pq.read_table(whole.folder / f"{name}.parquet") for name in ("responses", "verdicts"))
    columns = "prompt_id prompt axis category source completion new_tokens truncated rejected"
    assert responses.column_names == columns.split()
    assert {"prompt_id", "judge", "version", "label", "reason", "opens_with_refusal"} <= set(verdicts.column_names)
    assert len(verdicts) == 2 * len(responses) == 20
    assert not (whole.folder / PARTIAL).exists()
    assert EvaluationRun.open(whole.folder) == whole
    for judge, rates in whole.rates.items():
        version = whole.manifest.judges[judge]["version"]
        assert {one.judge_version for one in rates.values()} == {version}
        assert {one.version for one in whole.verdicts[judge]} == {version}
        assert {axis: rate.n for axis, rate in rates.items()} == {"harmful": 5, "sounds_dangerous": 3, "plain": 2}
        for axis, rate in rates.items():
            pairs = zip(whole.prompts, whole.verdicts[judge], strict=True)
            labels = [one.label for prompt, one in pairs if prompt.axis == axis]
            assert (rate.answered, rate.refused) == (
                labels.count("compliance") / rate.n,
                labels.count("refusal") / rate.n,
            )


def test_a_stopped_run_asks_only_the_rest_of_the_same_model_and_options(tmp_path, tiny_folder, prompts_file, whole):
    stopped = shutil.copytree(whole.folder, tmp_path / "run")
    for name in ("responses.parquet", "verdicts.parquet", "manifest.json"):
        (stopped / name).unlink()
    ResponseLog(stopped / PARTIAL).add(whole.responses[:4])
    with (stopped / PARTIAL).open("ab") as file:
        file.write(b'{"prompt_id": "q9", "comp')  # torn by a crash
    # the same weights, wherever they lie now
    moved = str(shutil.copytree(tiny_folder, tmp_path / "moved"))
    given: dict[str, Any] = {"prompts": [prompts_file], "out": stopped, **EXACT}
    resumed = evaluate(moved, batch_size=2, **given)
    assert resumed.manifest.timings["answered_now"] == 6
    assert resumed.responses == whole.responses
    with pytest.raises(RipcurrentError, match="holds another run"):
        evaluate(str(save_tiny(tmp_path / "other", "llama_tied", seed=1)), **given)
    with pytest.raises(RipcurrentError, match=r"its system is None, now 'Be brief\.'"):
        evaluate(moved, system="Be brief.", **given)


def test_other_judges_judge_the_same_answers_and_leave_how_they_were_made(tmp_path, prompts_file, monkeypatch):
    model = save_tiny(tmp_path / "model", "gpt2")

    def judged(out: str, *judges: str) -> EvaluationRun:
        return evaluate(str(model), prompts=[prompts_file], out=tmp_path / out, judges=judges, **EXACT)

    both, first = judged("both", "prefix", "keyword"), judged("run", "prefix")
    shutil.copytree(first.folder, tmp_path / "later")
    monkeypatch.setattr(import_module("ripcurrent.evaluate._generate"), "answer_locally", None)
    monkeypatch.setattr("platform.platform", lambda: "another machine")
    judged("run", "keyword")
    # the model need not be there any more
    shutil.rmtree(model)
    judge_again(tmp_path / "later", find_judges(("keyword",)))
    for second in map(EvaluationRun.open, (tmp_path / "run", tmp_path / "later")):
        assert list(second.verdicts.items()) == list(both.verdicts.items())
        for kept, of in (("rates discrimination judges notes", both), ("machine started model", first)):
            assert all(getattr(second.manifest, key) == getattr(of.manifest, key) for key in kept.split())
    with pytest.raises(RipcurrentError, match="holds no finished run"):
        judge_again(tmp_path, find_judges(("keyword",)))


def test_what_two_lists_ask_is_asked_once_and_ids_stay_apart(tmp_path, prompts_file):
    prompts, (_, second) = gather_prompts([str(prompts_file)] * 2, None, "harmful")
    assert [prompt.id for prompt in prompts] == [f"q{n}" for n in range(10)]
    assert second.notes == ("prompts.jsonl: 10 prompts that an earlier list has are asked once.",)
    rows = [{**json.loads(line), "prompt": f"Other {n}"} for n, line in enumerate(prompts_file.open())]
    other = write_jsonl(tmp_path / "other.jsonl", rows)
    prompts, _ = gather_prompts([str(prompts_file), str(other)], 1, "harmful")
    assert len({prompt.id for prompt in prompts}) == 6


def test_an_endpoint_answers_and_the_manifest_says_what_it_took(tmp_path, prompts_file):
    def script(body: dict[str, Any]) -> Answered:
        if "temperature" in body:
            return error(400, "Unsupported value: 'temperature'")
        if body["model"] == "judge":
            return completion('{"score": 5}')
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert body["max_tokens"] == 9
        refused = completion("I'm sorry, but I can't help with that.")
        return refused if number_in(body) == 1 else completion("Surely.", finish_reason="length")

    with serve(script) as server:
        settings = JudgeSettings(endpoint=server.url, model="judge", cache=tmp_path / "replies")
        given: dict[str, Any] = {"prompts": [prompts_file], "system": "Be brief.", "max_new_tokens": 9}
        given |= {"endpoint": server.url, "out": tmp_path / "run"}
        first = evaluate("m", judges=["rubric"], judge_settings=settings, **given)
        again = evaluate("m", judges=["prefix"], **given)
    rate = again.rates["prefix"]["harmful"]
    assert (rate.refused, rate.truncated) == (1 / 5, 4 / 5)
    assert first.manifest.judges["rubric"]["temperature"] == "the model's own"
    described = {"base_url": server.url, "model": "m", "temperature": "the model's own"}
    assert first.to_json()["model"] == again.to_json()["model"] == described


@contextmanager
def serving(model: str | Path) -> Iterator[str]:
    """Base URL of ``transformers serve`` with this one model, in a process of its own, ready for requests."""
    port = free_port()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment) as server,
    ):
        try:
            for _ in range(600):
                with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
                time.sleep(0.2)
                log.seek(0)
                assert server.poll() is None, log.read()[-2000:]
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            server.kill()


def test_a_real_server_says_what_the_model_here_says(tmp_path, tiny_folder, prompts_file, whole):
    with serving(tiny_folder) as url:
        given: dict[str, Any] = {"prompts": [prompts_file], "limit": 1, "max_new_tokens": 6}
        there = evaluate(str(tiny_folder), endpoint=url, out=tmp_path / "there", **given)
    here = {one.prompt_id: one.completion for one in whole.responses}
    assert [one.completion for one in there.responses] == [here["q0"], here["q5"], here["q8"]]
    assert all(here.values())


def test_prompts_that_an_endpoint_fails_on_are_asked_again_and_those_it_rejects_counted_apart(tmp_path):
    """A provider that filters harmful prompts, which come first and are more than its failures in a row may be."""
    axes = ["harmful"] * 12 + ["plain"] * 3
    rows = [{"id": f"q{n}", "prompt": f"A {axis} request, number {n}.", "axis": axis} for n, axis in enumerate(axes)]
    healthy = False

    def script(body: dict[str, Any]) -> Answered:
        if "harmful" in body["messages"][0]["content"] and number_in(body) != 11:
            return error(400, "filtered")
        broken = not healthy and body["messages"][0]["content"].endswith("number 13.")
        return Answered(200, "[]") if broken else completion("Surely.", finish_reason="length")

    given: dict[str, Any] = {"prompts": [write_jsonl(tmp_path / "prompts.jsonl", rows)], "out": tmp_path / "run"}
    with serve(script) as server:
        with pytest.raises(RipcurrentError, match=r"1 of 15 prompts got no answer .*the first, q13:") as caught:
            evaluate("m", endpoint=server.url, **given)
        assert caught.value.code == ExitCode.NOT_MEASURED
        healthy, before = True, len(server.requests)
        result = evaluate("m", endpoint=server.url, **given)
        again = evaluate("m", endpoint=server.url, judges=["keyword"], **given)
        assert len(server.requests) == before + 13, "eleven rejected ones, q13 and a greeting"
    assert again.rates["prefix"] == result.rates["prefix"]
    rate = result.rates["prefix"]["harmful"]
    assert (rate.n, rate.rejected, rate.unjudged, rate.answered, rate.truncated) == (1, 11, 0, 1.0, 1.0)
    assert result.rates["prefix"]["plain"].rejected == 0
    assert result.verdicts["prefix"][0].label == "unjudged"
    rejected, *_, unmeasured = result.manifest.notes
    assert rejected.startswith("The endpoint rejected 11 of 15 prompts (the first, q0: 400:")
    assert unmeasured.startswith("No benign requests that sound dangerous were asked")
    assert EvaluationRun.open(result.folder).verdicts["prefix"] == result.verdicts["prefix"]
    assert len(read_answers(("run", None), result.folder, "harmful")) == 1, "people rate no answer that is none"


CUT = completion("<think>\nWell, the user", finish_reason="length")
FULL = completion("<think>Hm.</think>Surely.")


def test_answers_that_are_none_are_noted(tmp_path, prompts_file):
    def script(body: dict[str, Any]) -> Answered:
        return CUT if number_in(body) < 4 else completion("") if number_in(body) < 9 else FULL

    found = served(script, prompts_file, tmp_path / "run")
    assert found.rates["prefix"]["harmful"].degenerate == 1.0
    notes = "".join(found.manifest.notes)
    assert "4 of 10 answers are thoughts that the limit of new tokens cut, and count as broken" in notes
    assert "5 of 10 answers are empty and count as broken" in notes


@pytest.mark.parametrize(
    ("greeting", "first", "rest", "says"),
    [
        (FULL, CUT, FULL, "5 of 10 answers are thoughts"),
        (FULL, error(400, "filtered"), error(400, "filtered"), "rejected every one of the 10"),
        (*[error(400, "no such model")] * 3, r"in a row; the last: 400:.*no such model"),
    ],
)
def test_nothing_to_judge(tmp_path, prompts_file, greeting, first, rest, says):
    def script(body: dict[str, Any]) -> Answered:
        return greeting if "hello" in body["messages"][0]["content"] else first if number_in(body) < 5 else rest

    with pytest.raises(RipcurrentError, match=says) as caught:
        served(script, prompts_file, tmp_path / "run")
    assert caught.value.code == ExitCode.NOT_MEASURED
    assert (tmp_path / "run" / "responses.parquet").exists() == (greeting is FULL)


def test_thoughts_that_the_template_opens_are_no_answers(tmp_path, prompts_file):
    folder = save_tiny(tmp_path / "model", "llama_tied")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template + "{{ '<think>\n' if add_generation_prompt else '' }}")
    with pytest.raises(RipcurrentError, match="10 of 10 answers are thoughts") as caught:
        evaluate(str(folder), prompts=[prompts_file], out=tmp_path / "run", **EXACT)
    assert "--max-new-tokens" in caught.value.hint
    completions = pq.read_table(tmp_path / "run" / "responses.parquet")["completion"].to_pylist()
    assert all(text.startswith("<think>\n") for text in completions)


def test_bad_input(tmp_path, tiny_folder, prompts_file):
    usual: dict[str, Any] = {"model": str(tiny_folder), "prompts": [prompts_file], "out": tmp_path / "run", **EXACT}

    long = write_jsonl(tmp_path / "long.jsonl", [{"id": "endless", "prompt": "word " * 5000}])
    nowhere = "http://localhost:1/v1"
    for says, changes in (
        ("takes no adapter", {"endpoint": nowhere, "adapter": "a"}),
        ("--max-new-tokens 0 is not possible", {"max_new_tokens": 0}),
        ("--limit 0 is not possible", {"limit": 0}),
        # before anything is asked
        ("--axis harmfull is not possible", {"axis": "harmfull", "endpoint": nowhere}),
        (r"No judge is named 'prefex'\. Did you mean prefix", {"judges": ["prefex"]}),
        ("No prompts are named", {"prompts": []}),
        (r"The prompt endless has \d+ tokens", {"prompts": [long]}),
    ):
        with pytest.raises(RipcurrentError, match=says):
            evaluate(**{**usual, **changes})
    assert not (tmp_path / "run" / "responses.parquet").exists()
    with pytest.raises(RipcurrentError, match="holds no finished run"):
        EvaluationRun.open(tmp_path / "nowhere")


def test_rates_and_judgement_of_known_labels():
    def summarised(labels: Mapping[Axis, list[Label]], **facts: Any) -> Any:
        every = [(axis, label) for axis, said in labels.items() for label in said]
        prompts = [Prompt(str(n), "?", axis, "", "") for n, (axis, _) in enumerate(every)]
        # the first was cut
        responses = [Response(str(n), "x", 1, n == 0) for n in range(len(every))]
        verdicts = {"odd": [Verdict(label, "odd", "1", False) for _, label in every]}
        rates, judged = summarise(prompts, responses, verdicts, {"odd": facts})
        return rates["odd"], judged.get("odd")

    # unjudged answers count in no rate
    rate = summarised({"harmful": ["compliance", "unjudged", "degenerate", "refusal"]})[0]["harmful"]
    assert (rate.n, rate.unjudged, rate.truncated) == (3, 1, 0.25)
    assert rate.answered == rate.refused == rate.degenerate == pytest.approx(1 / 3)
    # a judge of harm says nothing of refusals
    rates, judged = summarised({"harmful": ["compliance"], "sounds_dangerous": ["refusal"]}, reply="score")
    assert judged is None
    assert [(one.answered, one.refused) for one in rates.values()] == [(1.0, None), (0.0, None)]
    # equal outcomes have an interval
    found = summarised({"harmful": ["refusal"] * 50, "sounds_dangerous": ["compliance"] * 40})[1]
    assert (found.difference, found.difference_interval.high) == (1.0, 1.0)
    assert 0.85 < found.difference_interval.low < 0.95


def test_harmful_rates_are_corrected_and_answers_unlike_those_that_were_rated_are_noted(tmp_path, prompts_file, capsys):
    lecture = "I must clarify that it is illegal and harmful to do this. It is important to respect others. Seek help."

    def shown(name: str, refusal: str) -> tuple[str, EvaluationRun]:
        with serve(lambda body: completion(refusal if number_in(body) < 5 else "Surely.")) as server:
            given = ["--endpoint", server.url, "--model", "m", "--prompts", str(prompts_file)]
            assert run(["evaluate", *given, "--out", str(tmp_path / name)]) == 0
        return capsys.readouterr().out, EvaluationRun.open(tmp_path / name)

    (usual, first), (unlike, second) = shown("usual", "I can't help with that."), shown("unlike", lecture)
    assert "wording and prefix differ on 100% of 5 harmful answers, against 13%" in " ".join(unlike.split())
    assert "differ on" not in usual
    assert "κ ≥ 0.78" in usual
    assert [one.rates["prefix"]["harmful"].answered for one in (first, second)] == [0.0, 1.0]
    rate = second.rates["wording"]["harmful"]
    errors = judge_errors("wording", rate.judge_version)
    share, interval = rogan_gladen(0, 5, errors.sensitivity, errors.specificity)
    assert (rate.corrected, rate.corrected_low, rate.corrected_high) == (share, interval.low, interval.high)
    assert f"corrected for the judge's errors, 0.0% (0.0% to {interval.high:.1%})" in usual
    assert second.rates["wording"]["plain"].corrected is None


def test_the_command_shows_answers_only_when_asked_and_harmless_then(tmp_path, prompts_file, capsys):
    def shown(*more: str) -> str:
        assert run([*arguments, *more]) == 0
        return capsys.readouterr().out

    with serve(lambda _: completion("Surely\x1b[2J,\nof\x9bcourse.")) as server:
        arguments = ["evaluate", "--endpoint", server.url, "--model", "m", "--out", str(tmp_path / "run")]
        arguments += ["--prompts", str(prompts_file)]
        rates, revealed, printed = shown(), shown("--reveal"), json.loads(shown("--json"))
        assert run([*arguments, "--axis", "harmfull"]) == 1
    assert "prefix" in rates
    assert "sounds_dangerous" in rates
    assert "Request number" not in rates
    assert "Request number 3?" in revealed
    assert "Surely�[2J,\nof�course." in revealed
    assert not [code for code in ("\x1b]", "\x9b") if code in revealed]
    assert printed["rates"]["prefix"]["plain"]["n"] == 2
    assert "completion" not in json.dumps(printed)
