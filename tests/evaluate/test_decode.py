"""Answers in batches: those of one prompt at a time, also where a batch does not fit into memory, or one error."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate import Answer, JudgeSettings, _generate, decode_greedily, evaluate, find_judge, read_prefix
from ripcurrent.evaluate._batches import in_batches
from ripcurrent.evaluate.judges._classifier import ClassifierJudge
from tests.evaluate.judges.test_classifier import save_classifier
from tests.models.tiny import KINDS, save_tiny, tiny_model
from tests.scan_fixtures import write_jsonl


def does_not_fit(item: int, said: str) -> RipcurrentError:
    return RipcurrentError(f"{item} is too large: {said}.", "Take a smaller one.")


def at_most(most: int, compute: Callable[..., Any] = list, sizes: list[int] | None = None) -> Callable[..., Any]:
    """The same computation on a device with room for so many items of its last argument."""

    def limited(*given: Any, **options: Any) -> Any:
        if sizes is not None:
            sizes.append(len(given[-1]))
        if len(given[-1]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nOf the allocated memory…")
        return compute(*given, **options)

    return limited


def test_a_size_that_ran_out_is_not_tried_again():
    sizes: list[int] = []
    done = [item for _, found in in_batches(range(11), 8, at_most(2, sizes=sizes), does_not_fit) for item in found]
    assert done == list(range(11))
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 1]
    # one that does not fit alone, and other errors
    with pytest.raises(RipcurrentError, match=r"0 is too large: CUDA out of memory\. Tried to allocate 20\.00 GiB"):
        list(in_batches(range(3), 2, at_most(0), does_not_fit))
    with pytest.raises(RuntimeError, match="must match the size"):
        list(in_batches(range(3), 2, lambda _: torch.ones(2) + torch.ones(3), does_not_fit))


def test_answers(tmp_path, monkeypatch):
    model = save_tiny(tmp_path / "model", "llama_tied")
    prompts = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": f"Request {n}?" + " please" * n} for n in range(7)])

    def answer(out: str) -> Any:
        exact: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_new_tokens": 6}
        return evaluate(str(model), prompts=[prompts], out=tmp_path / out, **exact).responses

    expected = answer("whole")
    decode = _generate.decode_greedily
    monkeypatch.setattr(_generate, "decode_greedily", at_most(2, decode))
    assert answer("halves") == expected
    monkeypatch.setattr(_generate, "decode_greedily", at_most(0, decode))
    with pytest.raises(RipcurrentError, match="does not fit into the memory of cpu, even alone") as caught:
        answer("none")
    assert caught.value.code == ExitCode.NOT_MEASURED
    assert "--batch-size (in a file, batch_size)" in caught.value.hint


def test_classified_answers(tmp_path, monkeypatch):
    folder = save_classifier(tmp_path / "classifier", ["Refusal", "Compliance"])
    judge = find_judge(f"classifier:{folder}", JudgeSettings(device="cpu"))
    answers = [Answer("?", f"Take {n} eggs and " + "flour, " * n + "then bake.") for n in range(5)]
    expected = judge.judge(answers)
    probabilities = ClassifierJudge._probabilities
    monkeypatch.setattr(ClassifierJudge, "_probabilities", at_most(2, probabilities))
    halves = judge.judge(answers)
    assert [one.label for one in halves] == [one.label for one in expected]
    assert [one.score for one in halves] == pytest.approx([one.score for one in expected], abs=1e-5)
    monkeypatch.setattr(ClassifierJudge, "_probabilities", at_most(0, probabilities))
    with pytest.raises(RipcurrentError, match="answer 0: even alone it does not fit into the memory of cpu"):
        judge.judge(answers)


SHARED = [5, 9, 31, 77, 8]
PROMPTS = [[*SHARED, *rest] for rest in ([40], [12, 13, 14], [90, 91, 92, 93, 94, 95, 96], [7, 7], [201, 3, 50, 60])]
NEW = 14


@torch.inference_mode()
def alone(model: PreTrainedModel, prompt: Sequence[int], stops: set[int]) -> tuple[list[int], bool]:
    """Oracle: the whole sequence read anew for every token."""
    ids = list(prompt)
    for _ in range(NEW):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token in stops:
            return ids[len(prompt) :], True
        ids.append(token)
    return ids[len(prompt) :], False


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [True, False])
def test_a_batch_says_what_each_prompt_alone_gets(kind, share):
    model = tiny_model(kind)
    free = [alone(model, prompt, set())[0] for prompt in PROMPTS]
    # tokens that some answers meet early, others late or never: rows leave the batch at different steps
    stops = {free[0][2], free[1][5], free[3][0]}
    prefix = read_prefix(model, SHARED if share else [])
    # one prefix serves several batches
    for batch in (PROMPTS, PROMPTS[:2]):
        decoded = decode_greedily(model, batch, max_new_tokens=NEW, stops=stops, prefix=prefix, pad=2)
        assert decoded == [alone(model, prompt, stops) for prompt in batch]


def test_windows_share_nothing():
    assert read_prefix(tiny_model("llama_tied"), SHARED) is not None
    assert read_prefix(tiny_model("gemma3"), SHARED) is None
