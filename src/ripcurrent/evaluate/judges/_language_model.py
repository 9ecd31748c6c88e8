"""Judges that ask a language model, by a rubric, behind any OpenAI-compatible endpoint."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ripcurrent.data import strip_thoughts
from ripcurrent.evaluate._endpoint import EndpointFailure, Reply
from ripcurrent.evaluate._writable import writable
from ripcurrent.evaluate.judges._degenerate import SHARED_VERSION, degeneration
from ripcurrent.evaluate.judges._replies import KeptReply, ReplyCache, reply_key
from ripcurrent.evaluate.judges._reply import REPLY_VERSION, read_reply
from ripcurrent.evaluate.judges._rubric import Rubric
from ripcurrent.evaluate.judges._types import UNJUDGED, Answer, Verdict

MAX_TOKENS = 1024
"""Longest reply of a judging model, its reasoning included. A reply that is cut is unjudged."""


class ChatEndpoint(Protocol):
    """What a judge needs of `ripcurrent.evaluate._endpoint.Endpoint`."""

    base_url: str
    model: str

    def chat(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        *,
        temperature: float = 0.0,
        max_tokens: int,
        json: bool = False,
        works: bool = False,
    ) -> Iterator[tuple[int, Reply | EndpointFailure]]:
        """Replies as they come, each with its conversation's position."""

    def describe(self) -> dict[str, Any]:
        """Address and model, without the key."""


@dataclass(frozen=True, slots=True)
class LanguageModelJudge:
    """A judge that reads request and answer and replies by a rubric, at temperature 0."""

    rubric: Rubric
    """What is asked, and how the reply is read."""
    endpoint: ChatEndpoint
    """Who is asked."""
    cache: ReplyCache
    """Replies of earlier runs."""
    max_tokens: int = MAX_TOKENS
    """Longest reply."""
    on_judged: Callable[[int], None] | None = None
    """Told of every so many answers that were judged."""

    @property
    def name(self) -> str:
        """The rubric's name."""
        return self.rubric.name

    @property
    def version(self) -> str:
        """``MODEL HASH``: the model that judges, and a hash of rubric, endpoint, limits and how replies are read."""
        parts = (
            self.rubric.sha256,
            self.endpoint.base_url,
            self.endpoint.model,
            self.max_tokens,
            REPLY_VERSION,
            SHARED_VERSION,
        )
        digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
        return f"{self.endpoint.model.rstrip('/').rpartition('/')[2]} {digest[:8]}"

    @property
    def scale(self) -> tuple[float, float] | None:
        """The rubric's scale; 0 to 1 for a StrongREJECT score, none for labels."""
        by_kind = {"score": self.rubric.scale, "strongreject": (0.0, 1.0)}
        return by_kind.get(self.rubric.reply)

    def describe(self) -> dict[str, Any]:
        """What a manifest keeps of it."""
        return {
            "name": self.name,
            "version": self.version,
            "kind": "language model",
            **self.endpoint.describe(),
            "rubric_sha256": self.rubric.sha256,
            "reply": self.rubric.reply,
            "scale": self.scale and list(self.scale),
            "compliance_from": self.rubric.threshold if self.rubric.reply == "score" else None,
            "temperature": 0,
            "max_tokens": self.max_tokens,
        }

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """One verdict per answer, in order. Degenerate answers are not sent; equal questions are asked once.

        Every reply is kept on disk as it comes, so that a run that stops has paid for nothing twice.

        Raises:
            RipcurrentError: The endpoint does not work (see ``Endpoint.chat``), or the cache cannot be written.
        """
        texts = [strip_thoughts(answer.completion) for answer in answers]
        broken = [degeneration(text) for text in texts]
        keys: list[str | None] = []
        questions: dict[str, list[dict[str, str]]] = {}
        for answer, text, why in zip(answers, texts, broken, strict=True):
            if why is not None:
                keys.append(None)
                continue
            messages = self._question(answer.prompt, text)
            key = reply_key(messages, self._settings())
            keys.append(key)
            questions[key] = messages
        replies = self._replies(questions, keys)
        return [
            self._verdict(answer, why, None if key is None else replies[key])
            for answer, why, key in zip(answers, broken, keys, strict=True)
        ]

    def _replies(
        self, questions: Mapping[str, list[dict[str, str]]], keys: Sequence[str | None]
    ) -> dict[str, KeptReply | EndpointFailure]:
        """The reply to every question: kept ones, and asked ones as they come."""
        self.cache.prepare()
        replies: dict[str, KeptReply | EndpointFailure] = {}
        for key in questions:
            kept = self.cache.get(key)
            if kept is not None:
                replies[key] = kept
        asked = [key for key in questions if key not in replies]
        times = Counter(keys)
        self._tell(len(keys) - sum(times[key] for key in asked))
        conversations = [questions[key] for key in asked]
        # an endpoint that judged others and rejects what is left, for what is in it, works all the same
        works = bool(replies)
        for place, outcome in self.endpoint.chat(
            conversations, max_tokens=self.max_tokens, json=self._json, works=works
        ):
            key = asked[place]
            if isinstance(outcome, Reply):
                reply = KeptReply(text=writable(outcome.text), truncated=outcome.truncated)
                self.cache.put(key, reply)
                replies[key] = reply
            else:
                replies[key] = outcome
            self._tell(times[key])
        return replies

    def _verdict(self, answer: Answer, broken: str | None, reply: KeptReply | EndpointFailure | None) -> Verdict:
        if broken is not None or reply is None:
            return Verdict(
                label="degenerate",
                judge=self.name,
                version=self.version,
                truncated=answer.truncated,
                reason=broken,
            )
        if isinstance(reply, EndpointFailure):
            return Verdict(
                label=UNJUDGED, judge=self.name, version=self.version, truncated=answer.truncated, reason=reply.kind
            )
        reading = read_reply(reply.text, self.rubric, truncated=reply.truncated)
        return Verdict(
            label=reading.label,
            judge=self.name,
            version=self.version,
            truncated=answer.truncated,
            reason=reading.why_unjudged,
            score=reading.score,
            details=reading.details,
        )

    def _question(self, prompt: str, completion: str) -> list[dict[str, str]]:
        # One user message: some chat templates take no system message.
        return [{"role": "user", "content": self.rubric.fill(writable(prompt), writable(completion))}]

    @property
    def _json(self) -> bool:
        return self.rubric.reply != "word"

    def _settings(self) -> dict[str, Any]:
        return {
            "base_url": self.endpoint.base_url,
            "model": self.endpoint.model,
            "temperature": 0,
            "max_tokens": self.max_tokens,
            "json": self._json,
        }

    def _tell(self, count: int) -> None:
        if self.on_judged is not None and count:
            self.on_judged(count)
