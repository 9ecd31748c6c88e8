"""A chat model behind an OpenAI-compatible endpoint: for answers and for judging them.

What every request would meet stops everything with one error: the endpoint is down, refuses the key, has no such
model, takes no more requests. Any other failure is that of one request.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import islice
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, HttpUrl, TypeAdapter, ValidationError

from ripcurrent.errors import ExitCode, MissingExtraError, RipcurrentError

if TYPE_CHECKING:
    from openai import AsyncOpenAI

FailureKind = Literal["timeout", "server_error", "rejected", "nonsense"]
"""No answer in time; a 5xx answer (or 408, 409) or a lost connection; refused as it is (any other 4xx); no chat
completion in the answer."""
GIVE_UP_AFTER = 8
"""With as many failures one after the other an endpoint counts as not working, unless it takes a greeting."""
GREETING = 'Say hello, as JSON: {"say": "hello"}'
"""Asked where everything so far was rejected: an endpoint that takes this rejects the others for their content."""
OBJECTIONS = (
    *(("response_format", "response_format"), ("temperature", "temperature")),
    ("max_tokens", "max_completion_tokens"),
)
"""Fields that some endpoints do not take, each with what their error then names."""
KEY_VARIABLE, OPENAI_KEY_VARIABLE = "RIPCURRENT_API_KEY", "OPENAI_API_KEY"
NO_KEY = "none"
"""Sent to endpoints that ask for no key."""
_URL = TypeAdapter(HttpUrl)


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint said to one conversation."""

    text: str
    truncated: bool
    """Whether it reached the token limit."""
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
    is `KEY_VARIABLE`, or for OpenAI's own host also `OPENAI_KEY_VARIABLE`.
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
        self._of_openai = f".{_host_of(base_url)}".endswith(".openai.com")
        if find_spec("openai") is None:
            raise MissingExtraError("openai", "endpoint")
        self.base_url, self.model, self.concurrency = without_secrets(base_url), model, concurrency
        self._url, self._timeout, self._attempts = base_url, timeout, max_retries + 1
        self._key, self._key_env = _key_for(key_env, self._of_openai), key_env
        self._does_without: set[str] = set()
        self._client: AsyncOpenAI | None = None

    def chat(
        self, conversations: Sequence[Sequence[Mapping[str, str]]], *, max_tokens: int, json: bool = False
    ) -> Iterator[tuple[int, Outcome]]:
        """Ask for the next turn of each conversation at temperature 0; yields ``(position, outcome)`` as they come.

        ``json`` asks for a JSON object where the endpoint knows how.

        Raises:
            RipcurrentError: The endpoint does not work: it fails `GIVE_UP_AFTER` requests in a row, or all of them, and
                the greeting too. What came before was yielded.
        """
        ask = partial(self._ask, max_tokens=max_tokens, json=json)
        opening = [turn for turn in next(iter(conversations), ()) if turn["role"] == "system"]
        greet = partial(ask, [*opening, {"role": "user", "content": GREETING}], greeting=True)
        waiting = iter(enumerate(conversations))
        running: dict[Future[Outcome], int] = {}
        failed: list[EndpointFailure] = []  # in a row
        any_reply, stopped = False, None
        try:
            while True:
                for index, messages in islice(waiting, 0 if stopped else self.concurrency - len(running)):
                    running[_start(ask(messages))] = index
                if not running:
                    break
                for future in sorted(wait(running, return_when=FIRST_COMPLETED).done, key=running.__getitem__):
                    index = running.pop(future)
                    try:
                        outcome = future.result()
                    except RipcurrentError as error:
                        # the others under way may still bring what was paid for
                        stopped = stopped or error
                        continue
                    if isinstance(outcome, Reply):
                        failed, any_reply = [], True
                    else:
                        failed.append(outcome)
                    yield index, outcome
                    if len(failed) == GIVE_UP_AFTER and stopped is None:
                        stopped, failed = self._diagnose(failed, greet), []
        finally:
            for future in running:
                future.cancel()
        if stopped is None and failed and not any_reply:
            stopped = self._diagnose(failed, greet)
        if stopped is not None:
            raise stopped

    def describe(self) -> EndpointInfo:
        """What a manifest keeps of it."""
        own = "the model's own" if "temperature" in self._does_without else None
        return EndpointInfo(base_url=self.base_url, model=self.model, temperature=own)

    async def _ask(
        self, messages: Sequence[Mapping[str, str]], *, max_tokens: int, json: bool, greeting: bool = False
    ) -> Outcome:
        import openai

        if self._client is None:
            self._client = openai.AsyncOpenAI(
                base_url=self._url, api_key=self._key, timeout=self._timeout, max_retries=self._attempts - 1
            )
            if not self._of_openai:
                # the client reads OpenAI's from the environment
                self._client.organization = self._client.project = None
        limit = "max_completion_tokens" if "max_tokens" in self._does_without else "max_tokens"
        request: dict[str, Any] = {"model": self.model, "messages": list(messages), limit: max_tokens}
        optional = {"temperature": 0.0, **({"response_format": {"type": "json_object"}} if json else {})}
        request |= {field: value for field, value in optional.items() if field not in self._does_without}
        asked = self._client.chat.completions.create(**request)
        try:
            # a server that sends blanks is never silent, and would never be timed out by the client
            return _read(await asyncio.wait_for(asked, 2 * self._timeout * self._attempts))
        except (TimeoutError, openai.APITimeoutError):
            within = f"{self._timeout:g} s in {self._attempts} attempts"
            return EndpointFailure("timeout", f"no whole answer within {within}")
        except openai.APIConnectionError as error:
            said = self._said(error)
            if type(error.__cause__).__name__ in ("ConnectError", "ProxyError", "NoneType"):
                raise self._error(f"cannot be reached: {said}.", "Check the URL and that it runs.") from error
            return EndpointFailure("server_error", f"the connection was lost: {said}")
        except openai.APIStatusError as error:
            status, said = error.status_code, self._said(error)
            for field, named in OBJECTIONS if status in (400, 422) else ():
                if field in request and named in error.message:
                    self._does_without.add(field)
                    return await self._ask(messages, max_tokens=max_tokens, json=json, greeting=greeting)
            # a 403 may be a filter's word on one request: only that of a greeting is one on the key
            if status in (401, 402, 404, 429) or (status == 403 and greeting):
                raise self._refusal(status, said) from error
            kind: FailureKind = "server_error" if status >= 500 or status in (408, 409) else "rejected"
            return EndpointFailure(kind, f"{status}: {said}")
        except (openai.OpenAIError, ValueError) as error:
            return EndpointFailure("nonsense", f"its answer could not be read: {self._said(error)}")

    def _refusal(self, status: int, said: str) -> RipcurrentError:
        """The error of what every request would meet."""
        if status in (402, 429):
            hint = "Wait, or check the quota; the same command then goes on where it stopped."
            return self._error(f"takes no more requests ({status}): {said}", hint)
        if status == 404:
            what = f"knows no model {self.model!r}, or the URL is no base URL (404): {said}"
            return self._error(what, "Check the model's name there; the URL usually ends in /v1.", ExitCode.USAGE)
        variable = self._key_env or f"{KEY_VARIABLE} (for OpenAI's own host, {OPENAI_KEY_VARIABLE})"
        return self._error(f"refuses the key ({status}): {said}", f"Put a valid key into {variable}.", ExitCode.USAGE)

    def _diagnose(
        self, failed: Sequence[EndpointFailure], greet: Callable[[], Coroutine[Any, Any, Outcome]]
    ) -> RipcurrentError | None:
        """The error of an endpoint that failed all of these; None where it takes a greeting and so does work.

        After as many silences it is not greeted: each further one takes minutes.
        """
        in_a_row, silent = len(failed) == GIVE_UP_AFTER, any(one.kind == "timeout" for one in failed)
        if not (in_a_row and silent):
            try:
                if isinstance(_start(greet()).result(), Reply):
                    return None
            except RipcurrentError as error:
                return error
        how_many = f"{GIVE_UP_AFTER} requests in a row" if in_a_row else "every request"
        longer = "Allow it a longer silence, or c" if silent else "C"
        hint = f"{longer}heck the server's own log; the same command then goes on where it stopped."
        return self._error(f"failed {how_many}; the last: {failed[-1].message}.", hint)

    def _error(self, what: str, hint: str, code: ExitCode = ExitCode.NOT_MEASURED) -> RipcurrentError:
        return RipcurrentError(f"The endpoint {self.base_url} {what}", hint, code=code)

    def _said(self, error: BaseException) -> str:
        """The first line of what is beneath the client's "Connection error.", without the key."""
        while error.__cause__ is not None:
            error = error.__cause__
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        return line if self._key == NO_KEY else line.replace(self._key, "…")


def _read(completion: Any) -> Outcome:
    """The reply in an answer, which may be anything: the client checks no field."""
    try:
        choice = completion.choices[0]
        # OpenAI's models refuse a JSON answer in a field of its own
        text = writable(choice.message.content or getattr(choice.message, "refusal", None) or "")
        reason = getattr(choice, "finish_reason", None)
    except (AttributeError, TypeError, LookupError):
        return EndpointFailure("nonsense", f"its answer is no chat completion: {str(completion)[:60]!r}")
    if reason == "content_filter" and not text:
        return EndpointFailure("rejected", "its filter withheld the answer")
    tokens = getattr(getattr(completion, "usage", None), "completion_tokens", None)
    return Reply(text, reason == "length", tokens if isinstance(tokens, int) else None)


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own: a notebook's is already running. Nobody waits for it at exit."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="endpoint", daemon=True).start()
    return loop


def _start(asked: Coroutine[Any, Any, Outcome]) -> Future[Outcome]:
    return asyncio.run_coroutine_threadsafe(asked, _loop())


def _host_of(url: str) -> str:
    try:
        parts = _URL.validate_python(url)
    except ValidationError:
        # its text may quote the password
        hint = "Name its base URL, such as http://localhost:8000/v1."
        raise RipcurrentError(f"{url.rpartition('@')[2]!r} is no endpoint.", hint) from None
    if parts.query or parts.fragment:
        raise RipcurrentError(
            f"The endpoint {without_secrets(url)} has a part behind ? or #, to which no path can be added.",
            "Leave that out; a key goes into the environment.",
        )
    return str(parts.host)


def _key_for(variable: str | None, of_openai: bool) -> str:
    """The key to send, from the environment; where none is named and none is there, a placeholder."""
    for name in [variable] if variable else [KEY_VARIABLE, *([OPENAI_KEY_VARIABLE] if of_openai else [])]:
        key = os.environ.get(name, "").strip()
        if not (key.isascii() and key.isprintable()):
            raise RipcurrentError(
                f"{name} holds a key with characters that no key has, such as a curly quote or a line break.",
                "Set it to the key alone.",
            )
        if key:
            return key
    if variable:
        raise RipcurrentError(
            f"The environment variable {variable}, which should hold the judge's key, is not set.",
            "Set it, or name another with --judge-key-env (in a file, judge_key_env).",
        )
    return NO_KEY


def without_secrets(url: str) -> str:
    """The URL without user, password and query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def writable(text: str) -> str:
    """The text with halves of surrogate pairs, which no file and no request can carry, as question marks."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
