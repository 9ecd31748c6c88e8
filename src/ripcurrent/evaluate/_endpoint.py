"""A chat model behind an OpenAI-compatible endpoint: for answers and for judging them.

What every request would meet stops everything with one error: the endpoint is down, refuses the key, has no such
model, takes no more requests. Any other failure is that of one request.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import islice
from threading import Thread
from typing import Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, HttpUrl, ValidationError

from ripcurrent.errors import ExitCode, MissingExtraError, RipcurrentError

FailureKind = Literal["timeout", "server_error", "rejected", "nonsense"]
"""No answer in time; a 5xx answer (or 408, 409) or a lost connection; refused as it is (any other 4xx); no chat
completion in the answer."""
GIVE_UP_AFTER = 8
"""With as many failures one after the other an endpoint counts as not working, unless it takes a greeting."""
GREETING = 'Say hello, as JSON: {"say": "hello"}'
"""An endpoint that takes this rejects others for their content."""
OBJECTIONS = {"response_format": "response_format", "temperature": "temperature", "max_tokens": "max_completion_tokens"}
"""Fields that some endpoints do not take, each with what their error then names."""
KEY_VARIABLES = ("RIPCURRENT_API_KEY", "OPENAI_API_KEY")
"""Where a key is looked for; in the second one for OpenAI's own host only."""
NO_KEY = "none"
GOES_ON = "the same command then goes on where it stopped."


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint said to one conversation."""

    text: str
    truncated: bool
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EndpointFailure:
    """Why one conversation has no reply, after all retries."""

    kind: FailureKind
    message: str


Outcome = Reply | EndpointFailure


class EndpointInfo(BaseModel):
    """What a manifest keeps of an endpoint: never the key."""

    model_config = ConfigDict(frozen=True)

    base_url: str
    model: str
    temperature: str | None = None


class Endpoint:
    """One model behind one base URL (up to and with the version, as in ``http://localhost:8000/v1``).

    ``timeout`` is in seconds that it may be silent in one attempt; ``key_env`` names the variable with the key, else it
    is one of `KEY_VARIABLES`.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        key_env: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 4,
        concurrency: int = 4,
    ) -> None:
        of_openai = f".{_host_of(base_url)}".endswith(".openai.com")
        self._variables = (key_env,) if key_env else KEY_VARIABLES[: 1 + of_openai]
        self._key = _key_from(self._variables)
        self.base_url, self.model, self.concurrency = without_secrets(base_url), model, concurrency
        self._timeout, self._attempts = timeout, max_retries + 1
        self._does_without: set[str] = set()
        try:
            from openai import AsyncOpenAI
        except ImportError:
            raise MissingExtraError("openai", "endpoint") from None
        self._client = AsyncOpenAI(base_url=base_url, api_key=self._key, timeout=timeout, max_retries=max_retries)
        if not of_openai:
            # the client reads OpenAI's from the environment
            self._client.organization = self._client.project = None

    def chat(
        self, conversations: Sequence[Sequence[Mapping[str, str]]], *, max_tokens: int, json: bool = False
    ) -> Iterator[tuple[int, Outcome]]:
        """Ask for the next turn of each conversation at temperature 0; yields ``(position, outcome)`` as they come.

        ``json`` asks for a JSON object where the endpoint knows how.

        Raises:
            RipcurrentError: The endpoint does not work: it fails `GIVE_UP_AFTER` requests in a row, or all of them, and
                the greeting too. What came before was yielded.
        """
        waiting = iter(enumerate(conversations))
        running: dict[Future[Outcome], int] = {}
        failed: list[EndpointFailure] = []  # in a row
        any_reply, stopped = False, None
        try:
            while True:
                for index, messages in islice(waiting, 0 if stopped else self.concurrency - len(running)):
                    running[_start(self._ask(messages, max_tokens, json))] = index
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    index = running.pop(future)
                    try:
                        outcome = future.result()
                    except RipcurrentError as error:
                        # the others under way may still bring what was paid for
                        stopped = stopped or error
                        continue
                    any_reply = any_reply or isinstance(outcome, Reply)
                    failed = [] if isinstance(outcome, Reply) else [*failed, outcome]
                    yield index, outcome
                    if len(failed) == GIVE_UP_AFTER:
                        stopped, failed = stopped or self._fault(failed), []
        finally:
            for future in running:
                future.cancel()
        if not stopped and failed and not any_reply and failed[-1].kind != "timeout":
            stopped = self._fault(failed)
        if stopped:
            raise stopped

    def describe(self) -> EndpointInfo:
        own = "the model's own" if "temperature" in self._does_without else None
        return EndpointInfo(base_url=self.base_url, model=self.model, temperature=own)

    async def _ask(
        self, messages: Sequence[Mapping[str, str]], max_tokens: int, json: bool = False, greeting: bool = False
    ) -> Outcome:
        import openai

        limit = "max_completion_tokens" if "max_tokens" in self._does_without else "max_tokens"
        request: dict[str, Any] = {"model": self.model, "messages": list(messages), limit: max_tokens}
        optional = {"temperature": 0.0, **({"response_format": {"type": "json_object"}} if json else {})}
        request |= {field: value for field, value in optional.items() if field not in self._does_without}
        try:
            # a server that sends blanks is never silent, and would never be timed out by the client
            asked = self._client.chat.completions.create(**request)
            completion = await asyncio.wait_for(asked, 2 * self._timeout * self._attempts)
            choice = completion.choices[0]
            # OpenAI's models refuse a JSON answer in a field of its own
            text = writable(choice.message.content or getattr(choice.message, "refusal", None) or "")
            reason = getattr(choice, "finish_reason", None)
            if reason == "content_filter" and not text:
                return EndpointFailure("rejected", "its filter withheld the answer")
            return Reply(text, reason == "length", getattr(completion.usage, "completion_tokens", None))
        except (TimeoutError, openai.APITimeoutError):
            return EndpointFailure("timeout", f"no whole answer in {self._attempts} × {self._timeout:g} s")
        except openai.APIConnectionError as error:
            if type(error.__cause__).__name__ in ("ConnectError", "ProxyError", "NoneType"):
                what = f"cannot be reached: {self._said(error)}."
                raise self._error(what, "Check the URL and that it runs.") from error
            return EndpointFailure("server_error", f"the connection was lost: {self._said(error)}")
        except openai.APIStatusError as error:
            for field, named in OBJECTIONS.items() if error.status_code in (400, 422) else ():
                if field in request and named in error.message:
                    self._does_without.add(field)
                    return await self._ask(messages, max_tokens, json, greeting)
            status, said = error.status_code, self._said(error)
            # a 403 may be a filter's word on one request: only that of a greeting is one on the key
            if status in (401, 402, 404, 429) or (status == 403 and greeting):
                raise self._refusal(status, said) from error
            kind: FailureKind = "server_error" if status >= 500 or status in (408, 409) else "rejected"
            return EndpointFailure(kind, f"{status}: {said}")
        except (openai.OpenAIError, ValueError, AttributeError, TypeError, LookupError) as error:
            # the client checks no field of an answer, which may be anything
            return EndpointFailure("nonsense", f"its answer is no chat completion: {self._said(error)}")

    def _refusal(self, status: int, said: str) -> RipcurrentError:
        if status in (402, 429):
            return self._error(f"takes no more requests ({status}): {said}", f"Wait, or check the quota; {GOES_ON}")
        if status == 404:
            what = f"knows no model {self.model!r}, or the URL is no base URL (404): {said}"
            return self._error(what, "Check the model's name there; the URL usually ends in /v1.", ExitCode.USAGE)
        hint = f"Put a valid key into {' or '.join(self._variables)}."
        return self._error(f"refuses the key ({status}): {said}", hint, ExitCode.USAGE)

    def _fault(self, failed: Sequence[EndpointFailure]) -> RipcurrentError | None:
        """The error of an endpoint that failed all of these; None if it takes a greeting, and so works."""
        silent = failed[-1].kind == "timeout"
        greeting = [{"role": "user", "content": GREETING}]
        # after as many silences it is not greeted: each further one takes minutes
        try:
            if not silent and isinstance(_start(self._ask(greeting, 16, greeting=True)).result(), Reply):
                return None
        except RipcurrentError as error:
            return error
        how_many = f"{GIVE_UP_AFTER} requests in a row" if len(failed) == GIVE_UP_AFTER else "every request"
        hint = f"{'Allow it a longer silence, or c' if silent else 'C'}heck the server's own log; {GOES_ON}"
        return self._error(f"failed {how_many}; the last: {failed[-1].message}.", hint)

    def _error(self, what: str, hint: str, code: ExitCode = ExitCode.NOT_MEASURED) -> RipcurrentError:
        return RipcurrentError(f"The endpoint {self.base_url} {what}", hint, code=code)

    def _said(self, error: BaseException) -> str:
        """The first line of what is beneath the client's "Connection error.", without the key."""
        while error.__cause__ is not None:
            error = error.__cause__
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        return line if self._key == NO_KEY else line.replace(self._key, "…")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own: a notebook's is already running. Nobody waits for it at exit."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="endpoint", daemon=True).start()
    return loop


def _start(asked: Coroutine[Any, Any, Outcome]) -> Future[Outcome]:
    return asyncio.run_coroutine_threadsafe(asked, _loop())


def _host_of(url: str) -> str:
    with suppress(ValidationError):
        parts = HttpUrl(url)
        if not (parts.query or parts.fragment):
            return str(parts.host)
    # a password or a key in it is not shown
    raise RipcurrentError(
        f"{re.split('[?#]', url.rpartition('@')[2])[0]!r} is no endpoint's base URL.",
        "Name one such as http://localhost:8000/v1, with nothing behind ? or #; a key goes into the environment.",
    )


def _key_from(variables: Sequence[str]) -> str:
    """The first key that is in the environment; a placeholder where none is, and none is asked for by name."""
    for name in variables:
        key = os.environ.get(name, "").strip()
        if not (key.isascii() and key.isprintable()):
            wrong = "holds a key with characters that no key has, such as a curly quote or a line break"
            raise RipcurrentError(f"{name} {wrong}.", "Set it to the key alone.")
        if key:
            return key
    if variables[0] not in KEY_VARIABLES:
        wrong = f"The environment variable {variables[0]}, which should hold the judge's key, is not set."
        raise RipcurrentError(wrong, "Set it, or name another with --judge-key-env (in a file, judge_key_env).")
    return NO_KEY


def without_secrets(url: str) -> str:
    """The URL without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def writable(text: str) -> str:
    """The text with halves of surrogate pairs, which no file and no request can carry, as question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
