"""Judges that ask a language model, by a rubric, behind any OpenAI-compatible endpoint. Replies are kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._address import writable
from ripcurrent.evaluate._endpoint import Endpoint, EndpointFailure, Reply
from ripcurrent.evaluate.judges._degenerate import SHARED_VERSION
from ripcurrent.evaluate.judges._reply import REPLY_VERSION, read_reply
from ripcurrent.evaluate.judges._rubric import Rubric
from ripcurrent.evaluate.judges._types import UNJUDGED, Answer, Facts, Opinion, Verdict, judge_texts

MAX_TOKENS = 1024
"""Longest reply of a judging model, its reasoning included. A reply that is cut is unjudged."""


@dataclass(frozen=True, slots=True)
class KeptReply:
    """What a judging model said."""

    text: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class ReplyCache:
    """A folder of replies, one file each, so that nothing is paid for twice. Two processes may share it.

    A file's name is a hash of all that the reply depends on; it holds neither request nor answer.
    """

    folder: Path

    def get(self, key: str) -> KeptReply | None:
        """The reply under a key; None where there is none that can be read."""
        try:
            return KeptReply(**json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def put(self, key: str, reply: KeptReply | None = None) -> None:
        """Keep a reply; without one only make its folder, so that a reply that was paid for finds its place."""
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if reply is None:
                return
            # a name of its own, as another process may be keeping the same reply
            handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump({"text": reply.text, "truncated": reply.truncated}, file)
            Path(part).replace(path)
        except OSError as error:
            raise RipcurrentError(
                f"The judge's replies cannot be kept in {self.folder}: {error.strerror or error}.",
                "Make room or permission there, or name another cache folder by RIPCURRENT_CACHE.",
            ) from error

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


@dataclass(frozen=True, slots=True)
class LanguageModelJudge:
    """A judge that reads request and answer and replies by a rubric, at temperature 0."""

    rubric: Rubric
    endpoint: Endpoint
    cache: ReplyCache
    max_tokens: int = MAX_TOKENS
    on_judged: Callable[[int], None] | None = None
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
            "name": self.name,
            "version": self.version,
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
        """Each reply is kept as it comes."""
        asked = [self.rubric.fill(writable(one.prompt), writable(one.completion)) for one in answers]
        replies: dict[str, KeptReply | EndpointFailure | None] = {one: self.cache.get(self._key(one)) for one in asked}
        waiting = [question for question, reply in replies.items() if reply is None]
        for question in waiting[:1]:
            self.cache.put(self._key(question))
        times = Counter(asked)
        self._report(len(asked) - sum(times[question] for question in waiting))
        outcomes = self.endpoint.chat(
            # one user message: some chat templates take no system message
            [[{"role": "user", "content": question}] for question in waiting],
            max_tokens=self.max_tokens,
            json=self.rubric.reply != "word",
            # an endpoint that judged others and rejects what is left, for what is in it, works all the same
            works=len(waiting) < len(replies),
        )
        for place, outcome in outcomes:
            question = waiting[place]
            if isinstance(outcome, Reply):
                kept = KeptReply(outcome.text, outcome.truncated)
                self.cache.put(self._key(question), kept)
                replies[question] = kept
            else:
                replies[question] = outcome
            self._report(times[question])
        return [self._opinion(replies[question]) for question in asked]

    def _opinion(self, reply: KeptReply | EndpointFailure | None) -> Opinion:
        if isinstance(reply, KeptReply):
            return read_reply(reply.text, self.rubric, truncated=reply.truncated)
        return Opinion(UNJUDGED, None if reply is None else reply.kind)

    def _key(self, question: str) -> str:
        """Hash of all that a reply depends on."""
        settings = {
            "base_url": self.endpoint.base_url,
            "model": self.endpoint.model,
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "json": self.rubric.reply != "word",
        }
        asked = json.dumps([[{"role": "user", "content": question}], settings], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()

    def _report(self, count: int) -> None:
        if self.on_judged is not None and count:
            self.on_judged(count)
