"""Evaluation end to end on tiny models and real servers: answers kept, resumed, judged anew, rates by axis."""

import json
import re
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import ripcurrent as rc
from ripcurrent.cli import run
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate import (
    DEFAULT_JUDGES,
    EvaluationRun,
    JudgeSettings,
    Prompt,
    Verdict,
    evaluate,
    find_judges,
    judge_again,
    measured_agreement,
)
from ripcurrent.evaluate._prompts import gather_prompts
from ripcurrent.evaluate._rates import summarise
from ripcurrent.evaluate._ratings import read_answers
from ripcurrent.evaluate._responses import PARTIAL, Response, ResponseLog
from ripcurrent.evaluate.judges import Label
from tests.evaluate.scripted_server import Answered, completion, error, serve
from tests.evaluate.served_model import serving
from tests.models.tiny import save_tiny
from tests.tiny_scan import write_jsonl

EXACT: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_new_tokens": 6}


@pytest.fixture
def prompts_file(tmp_path: Path) -> Path:
    axes = ["harmful"] * 5 + ["sounds_dangerous"] * 3 + ["plain"] * 2
    rows = [{"id": f"q{n}", "prompt": f"Request number {n}?" + " please" * n, "axis": a} for n, a in enumerate(axes)]
    return write_jsonl(tmp_path / "prompts.jsonl", rows)


def test_answers_are_those_of_generate(tmp_path: Path, tiny_folder: Path, prompts_file: Path) -> None:
    import torch

    result = evaluate(str(tiny_folder), prompts=[prompts_file], out=tmp_path / "run", batch_size=3, **EXACT)
    loaded = rc.load_model(tiny_folder, device="cpu", dtype="float32")
    for prompt, response in zip(result.prompts, result.responses, strict=True):
        text = loaded.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt.text}], tokenize=False, add_generation_prompt=True
        )
        ids = loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            new = loaded.model.generate(ids, max_new_tokens=6, do_sample=False)[0, ids.shape[1] :].tolist()
        ended = new[-1] == loaded.tokenizer.eos_token_id
        said = new[:-1] if ended else new
        assert response.completion == loaded.tokenizer.decode(said, skip_special_tokens=True)
        assert (response.new_tokens, response.truncated) == (len(said), not ended)


def test_tables_hold_the_contract_and_come_back(tmp_path: Path, tiny_folder: Path, prompts_file: Path) -> None:
    result = evaluate(str(tiny_folder), prompts=[prompts_file], out=tmp_path / "run", **EXACT)
    responses = pq.read_table(result.folder / "responses.parquet")
    assert responses.column_names == [
        *("prompt_id", "prompt", "axis", "category", "source", "completion", "new_tokens", "truncated", "rejected")
    ]
    verdicts = pq.read_table(result.folder / "verdicts.parquet")
    assert {"prompt_id", "judge", "version", "label", "reason", "opens_with_refusal"} <= set(verdicts.column_names)
    assert len(verdicts) == 2 * len(responses) == 20
    assert not (result.folder / PARTIAL).exists()
    again = EvaluationRun.open(result.folder)
    assert again == result
    for judge in ("prefix", "keyword"):
        for axis, n in (("harmful", 5), ("sounds_dangerous", 3), ("plain", 2)):
            rate = result.rates[judge][axis]
            assert rate.n == n
            assert rate.answered + rate.refused + rate.degenerate == pytest.approx(1)
            pairs = zip(result.prompts, result.verdicts[judge], strict=True)
            assert rate.answered == sum(one.label == "compliance" for prompt, one in pairs if prompt.axis == axis) / n


def test_a_stopped_run_asks_only_the_rest(
    tmp_path: Path, tiny_folder: Path, prompts_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(str(tiny_folder), prompts=[prompts_file], out=tmp_path / "whole", batch_size=2, **EXACT)
    add = ResponseLog.add

    def add_and_stop(log: ResponseLog, responses: list[Response]) -> None:
        add(log, responses)
        if len(log.done) >= 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(ResponseLog, "add", add_and_stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(str(tiny_folder), prompts=[prompts_file], out=tmp_path / "run", batch_size=2, **EXACT)
    monkeypatch.undo()
    with (tmp_path / "run" / PARTIAL).open("ab") as file:
        file.write(b'{"prompt_id": "q9", "comp')  # torn by a crash
    # the same weights, wherever they lie now
    moved = shutil.copytree(tiny_folder, tmp_path / "moved")
    resumed = evaluate(str(moved), prompts=[prompts_file], out=tmp_path / "run", batch_size=2, **EXACT)
    assert resumed.manifest.timings["answered_now"] == 6
    assert resumed.responses == whole.responses


def test_other_judges_judge_the_same_answers_and_leave_how_they_were_made(
    tmp_path: Path, tiny_folder: Path, prompts_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judged_by(judge: str) -> Any:
        return evaluate(str(tiny_folder), prompts=[prompts_file], out=tmp_path / "run", judges=[judge], **EXACT)

    first = judged_by("prefix")
    monkeypatch.setattr(import_module("ripcurrent.evaluate._generate"), "answer_locally", None)
    monkeypatch.setattr("platform.platform", lambda: "another machine")
    second = judged_by("keyword")
    assert second.responses == first.responses
    assert list(second.verdicts) == ["prefix", "keyword"]
    assert set(second.manifest.judges) == {"prefix", "keyword"}
    assert (second.manifest.machine, second.manifest.started) == (first.manifest.machine, first.manifest.started)


def test_a_judge_comes_later_without_the_model(tmp_path: Path, prompts_file: Path) -> None:
    model = save_tiny(tmp_path / "model", "gpt2")
    both = evaluate(str(model), prompts=[prompts_file], out=tmp_path / "both", **EXACT)
    first = evaluate(str(model), prompts=[prompts_file], out=tmp_path / "run", judges=("prefix",), **EXACT)
    shutil.rmtree(model)
    judge_again(first.folder, find_judges(("keyword",)))
    later = EvaluationRun.open(first.folder)
    assert dict(later.verdicts) == dict(both.verdicts)
    for key in ("rates", "discrimination", "judges", "notes"):
        assert getattr(later.manifest, key) == getattr(both.manifest, key)
    assert later.manifest.model == first.manifest.model
    with pytest.raises(RipcurrentError, match="holds no finished run"):
        judge_again(tmp_path, find_judges(("keyword",)))


def test_another_model_or_system_prompt_needs_another_folder(
    tmp_path: Path, tiny_folder: Path, prompts_file: Path
) -> None:
    evaluate(str(tiny_folder), prompts=[prompts_file], out=tmp_path / "run", **EXACT)
    other = save_tiny(tmp_path / "other", "llama_tied", seed=1)
    with pytest.raises(RipcurrentError, match="holds another run"):
        evaluate(str(other), prompts=[prompts_file], out=tmp_path / "run", **EXACT)
    with pytest.raises(RipcurrentError, match=r"its system is None, now 'Be brief\.'"):
        evaluate(str(tiny_folder), prompts=[prompts_file], out=tmp_path / "run", system="Be brief.", **EXACT)


def test_what_two_lists_ask_is_asked_once_and_ids_stay_apart(
    tmp_path: Path, tiny_folder: Path, prompts_file: Path
) -> None:
    once = evaluate(str(tiny_folder), prompts=str(prompts_file), judges="prefix", out=tmp_path / "once", **EXACT)
    twice = evaluate(str(tiny_folder), prompts=[prompts_file, prompts_file], out=tmp_path / "twice", **EXACT)
    assert len(twice.prompts) == len(once.prompts) == 10
    assert twice.rates["prefix"] == once.rates["prefix"]
    assert any("10 prompts that an earlier list has are asked once" in note for note in twice.manifest.notes)
    rows = [{**json.loads(line), "prompt": f"Other {n}"} for n, line in enumerate(prompts_file.open())]
    other = write_jsonl(tmp_path / "other.jsonl", rows)
    prompts, _ = gather_prompts([str(prompts_file), str(other)], 1, "harmful")
    assert len({prompt.id for prompt in prompts}) == 6


def test_an_endpoint_answers(tmp_path: Path, prompts_file: Path) -> None:
    def script(body: dict[str, Any]) -> Answered:
        assert body["messages"][0] == {"role": "system", "content": "Be brief."}
        assert (body["temperature"], body["max_tokens"]) == (0.0, 9)
        asked = body["messages"][1]["content"]
        refused = completion("I'm sorry, but I can't help with that.")
        return refused if "number 1?" in asked else completion("Surely.", finish_reason="length")

    with serve(script) as server:
        result = evaluate(
            "some-model",
            endpoint=server.url,
            prompts=[prompts_file],
            out=tmp_path / "run",
            system="Be brief.",
            max_new_tokens=9,
        )
    assert result.rates["prefix"]["harmful"].refused == pytest.approx(1 / 5)
    assert result.rates["prefix"]["harmful"].truncated == pytest.approx(4 / 5)
    assert result.to_json()["model"] == {"base_url": server.url, "model": "some-model", "temperature": None}


def test_a_manifest_says_where_the_endpoint_took_no_temperature(tmp_path: Path, prompts_file: Path) -> None:
    def script(body: dict[str, Any]) -> Answered:
        return error(400, "Unsupported value: 'temperature'") if "temperature" in body else completion('{"score": 5}')

    with serve(script) as server:
        settings = JudgeSettings(endpoint=server.url, model="judge", cache=tmp_path / "replies")
        given: dict[str, Any] = {"endpoint": server.url, "prompts": [prompts_file], "out": tmp_path / "run"}
        first = evaluate("m", judges=["rubric"], judge_settings=settings, **given)
        again = evaluate("m", judges=["prefix"], **given)
    assert first.manifest.judges["rubric"]["temperature"] == "the model's own"
    assert first.manifest.model.temperature == again.manifest.model.temperature == "the model's own"


def test_a_real_server_says_what_the_model_here_says(tmp_path: Path, tiny_folder: Path, prompts_file: Path) -> None:
    common: dict[str, Any] = {"prompts": [prompts_file], "limit": 1, "max_new_tokens": 6}
    here = evaluate(str(tiny_folder), out=tmp_path / "here", device="cpu", dtype="float32", **common)
    with serving(tiny_folder) as url:
        there = evaluate(str(tiny_folder), endpoint=url, out=tmp_path / "there", **common)
    assert [one.completion for one in there.responses] == [one.completion for one in here.responses]
    assert all(one.completion for one in here.responses)


def test_prompts_that_an_endpoint_fails_to_answer_are_asked_again(tmp_path: Path, prompts_file: Path) -> None:
    healthy = False

    def script(body: dict[str, Any]) -> Answered:
        if not healthy and "number 2?" in body["messages"][0]["content"]:
            return Answered(200, "[]")
        return completion("Surely.")

    with serve(script) as server:
        arguments: dict[str, Any] = {"endpoint": server.url, "prompts": [prompts_file], "out": tmp_path / "run"}
        with pytest.raises(RipcurrentError, match="1 of 10 prompts got no answer") as caught:
            evaluate("m", **arguments)
        assert caught.value.code == ExitCode.NOT_MEASURED
        healthy = True
        asked = len(server.requests)
        assert evaluate("m", **arguments).rates["prefix"]["harmful"].n == 5
        assert len(server.requests) == asked + 1


def test_prompts_that_an_endpoint_rejects_are_counted_apart(tmp_path: Path) -> None:
    """A provider that filters harmful prompts, which come first and are more than its failures in a row may be."""
    axes = ["harmful"] * 12 + ["plain"] * 3
    rows = [{"id": f"q{n}", "prompt": f"A {axis} request, number {n}.", "axis": axis} for n, axis in enumerate(axes)]
    prompts = write_jsonl(tmp_path / "prompts.jsonl", rows)

    def script(body: dict[str, Any]) -> Answered:
        filtered = "harmful" in body["messages"][0]["content"] and "number 11" not in body["messages"][0]["content"]
        return error(400, "filtered") if filtered else completion("Surely.", finish_reason="length")

    with serve(script) as server:
        arguments: dict[str, Any] = {"endpoint": server.url, "prompts": [prompts], "out": tmp_path / "run"}
        result = evaluate("m", **arguments)
        asked = len(server.requests)
        assert evaluate("m", judges=["keyword"], **arguments).rates["prefix"] == result.rates["prefix"]
        assert len(server.requests) == asked == 16, "each prompt once, and a greeting"
    rate = result.rates["prefix"]["harmful"]
    assert (rate.n, rate.rejected, rate.unjudged, rate.answered, rate.truncated) == (1, 11, 0, 1.0, 1.0)
    assert result.rates["prefix"]["plain"].rejected == 0
    assert result.verdicts["prefix"][0].label == "unjudged"
    assert any("rejected 11 of 15 prompts (the first, q0: 400:" in note for note in result.manifest.notes)
    missing = [note for note in result.manifest.notes if "not measured" in note]
    assert missing == [
        "No benign requests that sound dangerous were asked: over-caution is not measured "
        "(add --prompts builtin:sounds_dangerous)."
    ]
    again = EvaluationRun.open(result.folder)
    assert (again.responses, again.verdicts["prefix"]) == (result.responses, result.verdicts["prefix"])
    assert len(read_answers(("run", None), result.folder, "harmful")) == 1, "people rate no answer that is none"


def test_empty_answers_are_told(tmp_path: Path, prompts_file: Path) -> None:
    with serve(lambda _: completion("")) as server:
        found = evaluate("m", endpoint=server.url, prompts=[prompts_file], out=tmp_path / "run")
    assert any(note.startswith("10 of 10 answers are empty and count as broken") for note in found.manifest.notes)


def test_thoughts_that_the_limit_cuts_are_no_answers(tmp_path: Path, prompts_file: Path) -> None:
    def script(thinks: int) -> Any:
        def says(body: dict[str, Any]) -> Answered:
            number = int(re.findall(r"number (\d+)", body["messages"][-1]["content"])[0])
            cut = completion("<think>\nWell, the user", finish_reason="length")
            return cut if number < thinks else completion("<think>Hm.</think>Surely.")

        return says

    with serve(script(4)) as server:
        found = evaluate("m", endpoint=server.url, prompts=[prompts_file], out=tmp_path / "some")
    assert any(note.startswith("4 of 10 answers are thoughts that the limit") for note in found.manifest.notes)
    assert found.rates["prefix"]["harmful"].degenerate == 0.8
    with serve(script(5)) as server, pytest.raises(RipcurrentError, match="5 of 10 answers are thoughts") as caught:
        evaluate("m", endpoint=server.url, prompts=[prompts_file], out=tmp_path / "half")
    assert caught.value.code == ExitCode.NOT_MEASURED
    assert "--max-new-tokens" in caught.value.hint


def test_thoughts_that_the_template_opens_are_no_answers(tmp_path: Path, prompts_file: Path) -> None:
    folder = save_tiny(tmp_path / "model", "llama_tied")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template + "{{ '<think>\n' if add_generation_prompt else '' }}")
    with pytest.raises(RipcurrentError, match="10 of 10 answers are thoughts"):
        evaluate(str(folder), prompts=[prompts_file], out=tmp_path / "run", **EXACT)
    completions = pq.read_table(tmp_path / "run" / "responses.parquet")["completion"].to_pylist()
    assert all(text.startswith("<think>\n") for text in completions)


def test_an_endpoint_that_rejects_every_prompt(tmp_path: Path, prompts_file: Path) -> None:
    rejection = error(400, "no such model")

    def filters(body: dict[str, Any]) -> Answered:
        return completion("Hello.") if "hello" in body["messages"][0]["content"] else rejection

    with (
        serve(lambda _: rejection) as server,
        pytest.raises(RipcurrentError, match=r"in a row; the last: 400:.*no such model"),
    ):
        evaluate("m", endpoint=server.url, prompts=[prompts_file], out=tmp_path / "broken")
    assert not (tmp_path / "broken" / "responses.parquet").exists()
    with serve(filters) as server, pytest.raises(RipcurrentError, match="rejected every one of the 10") as caught:
        evaluate("m", endpoint=server.url, prompts=[prompts_file], out=tmp_path / "run")
    assert caught.value.code == ExitCode.NOT_MEASURED
    assert EvaluationRun.open(tmp_path / "run").rates["prefix"]["harmful"].rejected == 5


def test_bad_input(tmp_path: Path, tiny_folder: Path, prompts_file: Path) -> None:
    usual = {"model": str(tiny_folder), "prompts": [prompts_file], "out": tmp_path / "run", **EXACT}

    def fails(says: str, **changes: Any) -> None:
        with pytest.raises(RipcurrentError, match=says):
            evaluate(**{**usual, **changes})

    fails("takes no adapter", endpoint="http://localhost:1/v1", adapter="a")
    fails("--max-new-tokens 0 is not possible", max_new_tokens=0)
    # before anything is asked
    fails("--axis harmfull is not possible", axis="harmfull", endpoint="http://localhost:1/v1")
    fails(r"No judge is named 'prefex'\. Did you mean prefix", judges=["prefex"])
    fails("No prompts are named", prompts=[])
    fails("holds no prompts", prompts=[write_jsonl(tmp_path / "empty.jsonl", [{"prompt": " "}])])
    long = write_jsonl(tmp_path / "long.jsonl", [{"id": "endless", "prompt": "word " * 5000}])
    fails(r"The prompt endless has \d+ tokens", prompts=[long])
    assert not (tmp_path / "run" / "responses.parquet").exists()
    with pytest.raises(RipcurrentError, match="holds no finished run"):
        EvaluationRun.open(tmp_path / "nowhere")


def summarised(harmful: list[Label], sounds_dangerous: list[Label], **facts: Any) -> Any:
    """Rates by axis, and the judgement, of one judge that said this of answers of which the first was cut."""
    labels = [*harmful, *sounds_dangerous]
    prompts = [
        Prompt(str(n), "?", "harmful" if n < len(harmful) else "sounds_dangerous", "", "") for n in range(len(labels))
    ]
    responses = [Response(str(n), "x", 1, n == 0) for n in range(len(labels))]
    said = [Verdict(label, "odd", "1", False) for label in labels]
    rates, judged = summarise(prompts, responses, {"odd": said}, {"odd": facts})
    return rates["odd"], judged.get("odd")


def test_unjudged_answers_count_in_no_rate() -> None:
    rate = summarised(["compliance", "unjudged", "degenerate", "refusal"], [])[0]["harmful"]
    assert (rate.n, rate.unjudged, rate.truncated) == (3, 1, 0.25)
    assert rate.answered == rate.refused == rate.degenerate == pytest.approx(1 / 3)


def test_a_judge_of_harm_tells_of_no_refusal() -> None:
    rates, judged = summarised(["compliance"] * 5, ["refusal"] * 5, scale=[1.0, 5.0], reply="score")
    assert judged is None
    assert {axis: (one.answered, one.refused) for axis, one in rates.items()} == {
        "harmful": (1.0, None),
        "sounds_dangerous": (0.0, None),
    }


def test_judgement_of_equal_outcomes_has_an_interval() -> None:
    found = summarised(["refusal"] * 50, ["compliance"] * 40)[1]
    assert found.difference == 1.0
    assert 0.85 < found.difference_interval.low < 0.95
    assert found.difference_interval.high == 1.0


def test_the_command_shows_no_answer_unless_told(
    tmp_path: Path, tiny_folder: Path, prompts_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", "--model", str(tiny_folder), "--prompts", str(prompts_file), "--out", str(tmp_path / "r")]
    arguments += ["--device", "cpu", "--dtype", "float32", "--max-new-tokens", "6"]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert "prefix" in shown
    assert "sounds_dangerous" in shown
    assert "Request number" not in shown
    assert run([*arguments, "--reveal"]) == 0
    assert "Request number 3?" in capsys.readouterr().out
    assert run([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rates"]["prefix"]["plain"]["n"] == 2
    assert "completion" not in json.dumps(printed)
    assert run([*arguments, "--axis", "harmfull"]) == 1


def test_an_answer_cannot_command_the_terminal(
    tmp_path: Path, prompts_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(lambda _: completion("Surely\x1b[2J,\nof\x9bcourse.")) as server:
        arguments = ["evaluate", "--endpoint", server.url, "--model", "m", "--prompts", str(prompts_file)]
        assert run([*arguments, "--out", str(tmp_path / "r"), "--reveal", "--quiet"]) == 0
        assert run([*arguments, "--out", str(tmp_path / "r"), "--reveal"]) == 0
    shown = capsys.readouterr().out
    assert "Surely�[2J,\nof�course." in shown
    assert "\x1b]" not in shown
    assert "\x9b" not in shown


def test_default_judges_begin_with_the_one_that_agrees_best() -> None:
    """Of the files that a judge was not written on, on the worse one."""
    held_out: dict[str, float] = {}
    for one in measured_agreement():
        if one.role != "tuned on these":
            held_out[one.judge] = min(one.kappa, held_out.get(one.judge, 1.0))
    assert DEFAULT_JUDGES[0] == max(held_out, key=lambda judge: held_out[judge])
