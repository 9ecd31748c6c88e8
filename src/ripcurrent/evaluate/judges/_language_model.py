"""Judges that ask a language model, by a rubric, behind any OpenAI-compatible endpoint. Replies are kept on disk."""

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._endpoint import Endpoint, FailureKind, Reply, writable
from ripcurrent.evaluate.judges._degenerate import SHARED_VERSION
from ripcurrent.evaluate.judges._reply import REPLY_VERSION, read_reply
from ripcurrent.evaluate.judges._rubric import Rubric
from ripcurrent.evaluate.judges._types import UNJUDGED, Answer, Facts, Opinion, Verdict, judge_texts


@dataclass(frozen=True, slots=True)
class LanguageModelJudge:
    """A judge that reads request and answer and replies by a rubric, at temperature 0."""

    rubric: Rubric
    endpoint: Endpoint
    cache: Path
    """Folder of replies, one file each, so that nothing is paid for twice. Two processes may share it.

    A file's name is a hash of all that the reply depends on; it holds neither request nor answer.
    """
    max_tokens: int
    """Longest reply, reasoning included. A reply that is cut is unjudged."""
    on_judged: Callable[[int], None]
    """Called with the number of answers that were judged since the last call."""

    @property
    def name(self) -> str:
        """The rubric's name."""
        return self.rubric.name

    @property
    def version(self) -> str:
        """``MODEL HASH``: the model that judges, and a hash of rubric, endpoint, limits and how replies are read."""
        asked = (self.rubric.sha256, self.endpoint.base_url, self.endpoint.model, self.max_tokens)
        digest = hashlib.sha256("\n".join(map(str, (*asked, REPLY_VERSION, SHARED_VERSION))).encode()).hexdigest()
        return f"{self.endpoint.model.rstrip('/').rpartition('/')[2]} {digest[:8]}"

    @property
    def scale(self) -> tuple[float, float] | None:
        """The rubric's scale; 0 to 1 for a StrongREJECT score, none for labels."""
        by_kind = {"score": self.rubric.scale, "strongreject": (0.0, 1.0)}
        return by_kind.get(self.rubric.reply)

    def describe(self) -> Facts:
        """What a manifest keeps of it."""
        return {
            "kind": "language model",
            "base_url": self.endpoint.base_url,
            "model": self.endpoint.model,
            "rubric_sha256": self.rubric.sha256,
            "reply": self.rubric.reply,
            "scale": None if self.scale is None else list(self.scale),
            "compliance_from": self.rubric.threshold if self.rubric.reply == "score" else None,
            "temperature": self.endpoint.describe().temperature or 0,
            "max_tokens": self.max_tokens,
        }

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict per answer, in order. Degenerate answers are not sent; equal questions are asked once."""
        return judge_texts(self, answers, self._ask, self.on_judged)

    def _ask(self, answers: Sequence[Answer]) -> list[Opinion]:
        asked = [self.rubric.fill(writable(one.prompt), writable(one.completion)) for one in answers]
        times = Counter(asked)
        files = {question: self._file(question) for question in times}
        replies = {question: kept for question, file in files.items() if (kept := _read_kept(file)) is not None}
        failed: dict[str, FailureKind] = {}
        waiting = [question for question in files if question not in replies]
        self.on_judged(sum(times[question] for question in replies))
        # one user message: some chat templates take no system message
        turns = [[{"role": "user", "content": question}] for question in waiting]
        for place, outcome in self.endpoint.chat(turns, max_tokens=self.max_tokens, json=self.rubric.reply != "word"):
            question = waiting[place]
            if isinstance(outcome, Reply):
                self._keep(files[question], outcome)
                replies[question] = outcome
            else:
                failed[question] = outcome.kind
            self.on_judged(times[question])
        return [
            read_reply(replies[question].text, self.rubric, truncated=replies[question].truncated)
            if question in replies
            else Opinion(UNJUDGED, failed[question])
            for question in asked
        ]

    def _file(self, question: str) -> Path:
        settings = {
            "base_url": self.endpoint.base_url,
            "model": self.endpoint.model,
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "json": self.rubric.reply != "word",
        }
        asked = json.dumps([[{"role": "user", "content": question}], settings], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        return self.cache / key[:2] / f"{key}.json"

    def _keep(self, path: Path, reply: Reply) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # a name of its own, as another process may be keeping the same reply
            handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"text": reply.text, "truncated": reply.truncated}, file)
            Path(part).replace(path)
        except OSError as error:
            raise RipcurrentError(
                f"The judge's replies cannot be kept in {self.cache}: {error.strerror or error}.",
                "Make room or permission there, or name another cache folder by RIPCURRENT_CACHE.",
            ) from error


def _read_kept(path: Path) -> Reply | None:
    try:
        return Reply(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
