"""A chat model behind an OpenAI-compatible endpoint: for answers and for judging them.

Requests run a few at a time. What the client cannot mend by trying again, and no single request is to blame for, stops
the whole with one error: the endpoint is down, does not know the key or the model, or will not take more. What is wrong
with one request (it timed out, was refused, got nonsense back) is that request's failure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from json import JSONDecodeError
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

from ripcurrent.errors import ExitCode, MissingExtraError, RipcurrentError
from ripcurrent.evaluate._address import (
    KEY_VARIABLE,
    NO_KEY,
    OPENAI_KEY_VARIABLE,
    host_of,
    is_openai,
    key_for,
    without_secrets,
)
from ripcurrent.evaluate._writable import writable

if TYPE_CHECKING:
    from openai import APIStatusError, OpenAI

FailureKind = Literal["timeout", "server_error", "rejected", "nonsense"]
"""Why one request has no reply: no answer in time, a 5xx answer (or 408, 409), refused as it is (any other 4xx), no
chat completion in it."""

GIVE_UP_AFTER = 8
"""So many failures one after the other, and the endpoint counts as not working."""

FORBIDDEN = 403
"""A key that may not, or at some providers a filter of what is asked."""
MODERATION = ("moderation", "flagged", "content_filter", "content filter", "content_policy", "content policy")
"""Parts of what such a filter says, lower case."""

WHOLE = 2.0
"""A request may take so many times all its attempts' timeouts: a server that sends blanks is never silent."""

GREETING = 'Say hello, as JSON: {"say": "hello"}'
"""Asked where everything so far was rejected: an endpoint that takes this rejects the others for what is in them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint said to one conversation."""

    text: str
    """The message, reasoning in fields of its own left out; may be empty."""
    finish_reason: str | None
    """As the endpoint has it: ``stop``, ``length`` (the token limit), ``content_filter``…"""
    completion_tokens: int | None
    """Tokens it says it made; None where it does not say."""

    @property
    def truncated(self) -> bool:
        """Whether the reply reached the token limit."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class EndpointFailure:
    """Why one conversation has no reply, after all retries."""

    kind: FailureKind
    """The kind of failure."""
    message: str
    """What happened, for people."""
    forbidden: bool = False
    """Rejected with the status that a key without rights gets too."""


class Endpoint:
    """One model behind one base URL."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key: str | None = None,
        key_variable: str | None = None,
        timeout: float = 60.0,
        max_retries: int = 4,
        concurrency: int = 4,
    ) -> None:
        """Prepare a client; nothing is sent.

        Args:
            base_url: Up to and with the version, as in ``http://localhost:8000/v1``.
            model: The model's name there.
            api_key: The key; else that of ``RIPCURRENT_API_KEY``, or of ``OPENAI_API_KEY`` for OpenAI's own host.
                Endpoints that ask for none get a placeholder.
            key_variable: Environment variable that holds ``api_key``, named when the key is refused.
            timeout: Seconds that the endpoint may be silent in one attempt: before it answers, or between two parts.
            max_retries: Further attempts after a lost connection, a timeout, 408, 409, 429 and 5xx, each after a longer
                pause or the one that the endpoint asks for.
            concurrency: Requests under way at once.

        Raises:
            RipcurrentError: The URL or the key is none, or a number is out of range.
            MissingExtraError: The ``openai`` client is not installed.
        """
        host = host_of(base_url)
        if not model:
            raise RipcurrentError("An endpoint needs the name of a model there.", "Name it with --model.")
        if timeout <= 0 or max_retries < 0 or concurrency < 1:
            raise RipcurrentError(
                f"timeout {timeout}, max_retries {max_retries}, concurrency {concurrency} is not possible.",
                "A timeout is above 0, retries are 0 or more, concurrency is 1 or more.",
            )
        if find_spec("openai") is None:
            raise MissingExtraError("openai", "endpoint")
        self.base_url = without_secrets(base_url)
        """The base URL as it may be shown: without user, password and query."""
        self.model = model
        """The model's name there."""
        self.concurrency = concurrency
        """Requests under way at once."""
        self._url, self._timeout, self._max_retries = base_url, timeout, max_retries
        self._key_variable = key_variable
        self._key, self._own_host = key_for(api_key, key_variable, host), is_openai(host)
        self._takes_json_format = self._takes_temperature = True
        self._works = False
        self._limit_field = "max_tokens"
        self._client: OpenAI | None = None

    def chat(
        self,
        conversations: Sequence[Sequence[Mapping[str, str]]],
        *,
        temperature: float = 0.0,
        max_tokens: int,
        json: bool = False,
        works: bool = False,
    ) -> Iterator[tuple[int, Reply | EndpointFailure]]:
        """Ask for the next assistant turn of each conversation; each comes as it is ready, with its position.

        Args:
            conversations: Lists of ``{"role": …, "content": …}``.
            temperature: 0 for the likeliest words.
            max_tokens: Longest reply.
            json: Ask for a JSON object by ``response_format``, where the endpoint takes that; the conversation must ask
                for JSON itself all the same, and the reply may still be none.
            works: It answered others like these before: a 403 is then no refused key unless the greeting meets it too.

        Raises:
            RipcurrentError: The endpoint is down, refuses the key, has no such model, takes no more requests, fails
                `GIVE_UP_AFTER` requests in a row or all of them. What came before was yielded. Rejections alone are no
                failure where it then takes `GREETING`.
        """
        self._works = self._works or works
        waiting = iter(enumerate(conversations))
        opening = [turn for turn in next(iter(conversations), ()) if turn["role"] == "system"]
        greeting = [*opening, {"role": "user", "content": GREETING}]
        greet = partial(self._ask, greeting, temperature, max_tokens, json)
        running: dict[Future[Reply | EndpointFailure], tuple[int, float]] = {}
        whole = WHOLE * self._timeout * (self._max_retries + 1)
        failed: list[EndpointFailure] = []  # in a row
        any_reply = False
        stopped: RipcurrentError | None = None
        while True:
            # no more is asked than is under way, so that little is lost or paid for when the caller stops
            while stopped is None and len(running) < self.concurrency:
                index, messages = next(waiting, (-1, ()))
                if index < 0:
                    break
                future = _started(partial(self._ask, messages, temperature, max_tokens, json))
                running[future] = index, time.monotonic() + whole
            if not running:
                break
            ends = min(end for _, end in running.values())
            wait(running, timeout=max(0.0, ends - time.monotonic()), return_when=FIRST_COMPLETED)
            now = time.monotonic()
            for future in [one for one, (_, end) in running.items() if one.done() or end <= now]:
                index, _ = running.pop(future)
                outcome: Reply | EndpointFailure
                if not future.done():
                    outcome = EndpointFailure("timeout", f"no whole answer within {whole:g} s")
                else:
                    try:
                        outcome = future.result()
                    except RipcurrentError as error:
                        # the others under way may still bring what was paid for
                        stopped = stopped or error
                        continue
                if isinstance(outcome, EndpointFailure):
                    failed.append(outcome)
                else:
                    failed, any_reply, self._works = [], True, True
                yield index, outcome
                if len(failed) >= GIVE_UP_AFTER and stopped is None:
                    stopped = self._what_ails(failed, f"{len(failed)} requests in a row", greet)
                    failed = []
        if stopped is None and failed and not any_reply:
            stopped = self._what_ails(failed, "every request", greet, at_end=True)
        if stopped is not None:
            raise stopped

    def describe(self) -> dict[str, Any]:
        """What a manifest keeps: address and model, never the key."""
        own = {} if self._takes_temperature else {"temperature": "the model's own"}
        return {"base_url": self.base_url, "model": self.model, **own}

    def _ask(
        self, messages: Sequence[Mapping[str, str]], temperature: float, max_tokens: int, json: bool
    ) -> Reply | EndpointFailure:
        import openai

        client = self._connected()
        wants_json, limit_field = json and self._takes_json_format, self._limit_field
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            limit_field: max_tokens,
        }
        if self._takes_temperature:
            request["temperature"] = temperature
        if wants_json:
            request["response_format"] = {"type": "json_object"}
        try:
            completion: Any = client.chat.completions.create(**request)
        except openai.APITimeoutError:
            attempts = self._max_retries + 1
            return EndpointFailure("timeout", f"no answer within {self._timeout:g} s in {attempts} attempts")
        except openai.APIConnectionError as error:
            if self._works and not _cannot_connect(error):
                # a server that is there and let this request go: another may fare better
                return EndpointFailure("server_error", f"the connection was lost: {self._reason(error)}")
            raise self._stopped(
                f"cannot be reached: {self._reason(error)}.",
                "Check the URL and that the server runs.",
                ExitCode.NOT_MEASURED,
            ) from error
        except openai.APIStatusError as error:
            if wants_json and error.status_code in (400, 422) and "response_format" in error.message:
                # many servers know no such field; the conversation asks for JSON itself
                self._takes_json_format = False
                return self._ask(messages, temperature, max_tokens, json)
            if "temperature" in request and error.status_code == 400 and "temperature" in error.message:
                # models that reason know no other than their own
                self._takes_temperature = False
                return self._ask(messages, temperature, max_tokens, json)
            if limit_field == "max_tokens" and error.status_code == 400 and "max_completion_tokens" in error.message:
                # newer models know the limit by this name only
                self._limit_field = "max_completion_tokens"
                return self._ask(messages, temperature, max_tokens, json)
            return self._refused(error)
        except openai.OpenAIError as error:
            return EndpointFailure("nonsense", f"its answer could not be read: {_first_line(error)}")
        except (JSONDecodeError, UnicodeDecodeError) as error:
            return EndpointFailure("nonsense", f"its answer is broken JSON: {_first_line(error)}")
        return _read(completion)

    def _connected(self) -> OpenAI:
        if self._client is None:
            from openai import OpenAI

            self._client = OpenAI(
                base_url=self._url, api_key=self._key, timeout=self._timeout, max_retries=self._max_retries
            )
            if not self._own_host:
                # read from the environment, as OpenAI's key would be
                self._client.organization = self._client.project = None
        return self._client

    def _reason(self, error: BaseException) -> str:
        """What the system said beneath the client's "Connection error.", without the key."""
        while error.__cause__ is not None:
            error = error.__cause__
        return self._without_key(_first_line(error))

    def _without_key(self, said: str) -> str:
        return said if self._key == NO_KEY else said.replace(self._key, "…")

    def _refused(self, error: APIStatusError) -> EndpointFailure:
        """The failure of one request that got an error's status; raises for what every request would meet."""
        status, said = error.status_code, self._without_key(_first_line(error))
        if status == FORBIDDEN and (self._works or any(word in said.lower() for word in MODERATION)):
            # a filter of what is asked, unless a greeting meets it too
            return EndpointFailure("rejected", f"{status}: {said}", forbidden=True)
        if status in (401, FORBIDDEN):
            raise self._key_refused(status, said) from error
        if status == 404:
            raise self._stopped(
                f"knows no model {self.model!r}, or the URL is no base URL (404): {said}",
                "Check the model's name there; the URL usually ends in /v1.",
            ) from error
        if status in (402, 429):
            raise self._stopped(
                f"takes no more requests ({status}): {said}",
                "Wait, or check the quota; the same command then goes on where it stopped.",
                ExitCode.NOT_MEASURED,
            ) from error
        if status >= 500 or status in (408, 409):
            return EndpointFailure("server_error", f"{status}: {said}")
        return EndpointFailure("rejected", f"{status}: {said}")

    def _key_refused(self, status: int, said: str) -> RipcurrentError:
        return self._stopped(
            f"refuses the key ({status}): {said}",
            f"Put a valid key into {self._key_variable}."
            if self._key_variable
            else f"Put a valid key into {KEY_VARIABLE} (for OpenAI's own host, {OPENAI_KEY_VARIABLE}).",
        )

    def _what_ails(
        self,
        failed: Sequence[EndpointFailure],
        how_many: str,
        greet: Callable[[], Reply | EndpointFailure],
        *,
        at_end: bool = False,
    ) -> RipcurrentError | None:
        """The error of an endpoint that failed all of these; None where that lies in them, as it takes a greeting.

        Of other failures than rejections that is believed where it answered before; of silence only ``at_end``, as
        each further one takes minutes.
        """
        kinds = {failure.kind for failure in failed}
        if kinds == {"rejected"} or (self._works and (at_end or "timeout" not in kinds)):
            try:
                greeted = greet()
                if isinstance(greeted, Reply):
                    return None
                if greeted.forbidden:
                    return self._key_refused(FORBIDDEN, greeted.message.partition(": ")[2])
            except RipcurrentError as error:
                return error
        return self._stopped(
            f"failed {how_many}; the last: {failed[-1].message}.",
            ("Allow it a longer silence, or c" if "timeout" in kinds else "C")
            + "heck the server's own log; the same command then goes on where it stopped.",
            ExitCode.NOT_MEASURED,
        )

    def _stopped(self, what: str, hint: str, code: ExitCode = ExitCode.USAGE) -> RipcurrentError:
        return RipcurrentError(f"The endpoint {self.base_url} {what}", hint, code=code)


def _read(completion: Any) -> Reply | EndpointFailure:
    """The reply in what the client made of an answer, which may be anything: it checks no field."""
    choices = getattr(completion, "choices", None)
    first = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(first, "message", None)
    if message is None:
        return EndpointFailure("nonsense", f"its answer is no chat completion: {_excerpt(completion)}")
    text = getattr(message, "content", None)
    if text is None and getattr(message, "refusal", None):
        # OpenAI's models refuse a JSON answer in a field of its own
        text = message.refusal
    if text is not None and not isinstance(text, str):
        return EndpointFailure("nonsense", "its answer's content is no text")
    finish_reason = getattr(first, "finish_reason", None)
    if finish_reason == "content_filter" and not text:
        return EndpointFailure("rejected", "its filter withheld the answer")
    tokens = getattr(getattr(completion, "usage", None), "completion_tokens", None)
    return Reply(
        text=writable(text or ""),
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        completion_tokens=tokens if isinstance(tokens, int) else None,
    )


def _excerpt(completion: Any) -> str:
    """The beginning of an answer that is no completion: a web page, say, or an error in a 200; never a model's text."""
    if isinstance(completion, str):
        return repr(completion[:60]) if completion.strip() else "it is empty"
    fields = sorted(getattr(completion, "model_extra", None) or ())
    return f"it has the fields {', '.join(map(str, fields[:5]))}" if fields else "it has no choices"


def _started(ask: Callable[[], Reply | EndpointFailure]) -> Future[Reply | EndpointFailure]:
    """A request under way in a thread that nobody waits for at exit, as one of an executor would be."""
    future: Future[Reply | EndpointFailure] = Future()

    def run() -> None:
        try:
            future.set_result(ask())
        except BaseException as error:  # noqa: BLE001, it is raised where the result is asked for
            future.set_exception(error)

    Thread(target=run, name="endpoint", daemon=True).start()
    return future


def _cannot_connect(error: BaseException) -> bool:
    """Whether there was no connection at all, by the cause that the client's HTTP library names."""
    cause = error.__cause__
    return cause is None or type(cause).__name__ in ("ConnectError", "UnsupportedProtocol", "ProxyError")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
