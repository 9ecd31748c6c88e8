"""A chat model behind an OpenAI-compatible endpoint: for answers and for judging them.

What no single request is to blame for stops everything with one error: the endpoint is down, refuses the key, has no
such model, takes no more requests. Any other failure is that of one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from ripcurrent.errors import ExitCode, MissingExtraError, RipcurrentError
from ripcurrent.evaluate import _address
from ripcurrent.evaluate._address import writable

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

FailureKind = Literal["timeout", "server_error", "rejected", "nonsense"]
"""No answer in time; a 5xx answer (or 408, 409); refused as it is (any other 4xx); no chat completion in the answer."""
GIVE_UP_AFTER = 8
"""With as many failures one after the other an endpoint counts as not working."""
WHOLE = 2.0
"""A request may take twice the timeouts of all its attempts: a server that sends blanks is never silent."""
FORBIDDEN = 403
MODERATION = ("moderation", "flagged", "content_filter", "content filter", "content_policy", "content policy")
GREETING = 'Say hello, as JSON: {"say": "hello"}'
"""Asked where everything so far was rejected: an endpoint that takes this rejects the others for their content."""

Turns = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint said to one conversation."""

    text: str
    finish_reason: str | None
    """As the endpoint has it: ``stop``, ``length`` (the token limit), ``content_filter``…"""
    completion_tokens: int | None

    @property
    def truncated(self) -> bool:
        """Whether the reply reached the token limit."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class EndpointFailure:
    """Why one conversation has no reply, after all retries; ``forbidden`` with the status of a key without rights."""

    kind: FailureKind
    message: str
    forbidden: bool = False


Outcome = Reply | EndpointFailure


class EndpointInfo(BaseModel):
    """What a manifest keeps of an endpoint: never the key."""

    model_config = ConfigDict(frozen=True)

    base_url: str
    model: str
    temperature: str | None = None


class Endpoint:
    """One model behind one base URL (up to and with the version, as in ``http://localhost:8000/v1``).

    ``timeout`` is in seconds that it may be silent in one attempt. The key is ``api_key``, else the environment's.
    """

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
        host = _address.host_of(base_url)
        if not model:
            raise RipcurrentError("An endpoint needs the name of a model there.", "Name it with --model.")
        if timeout <= 0 or max_retries < 0 or concurrency < 1:
            raise RipcurrentError(
                f"timeout {timeout}, max_retries {max_retries}, concurrency {concurrency} is not possible.",
                "A timeout is above 0, retries are 0 or more, concurrency is 1 or more.",
            )
        if find_spec("openai") is None:
            raise MissingExtraError("openai", "endpoint")
        self.base_url = _address.without_secrets(base_url)
        self.model, self.concurrency = model, concurrency
        self._url, self._timeout, self._attempts = base_url, timeout, max_retries + 1
        self._key, self._own_host = _address.key_for(api_key, key_variable, host), _address.is_openai(host)
        self._key_hint = f"Put a valid key into {key_variable or _address.KEY_VARIABLES}."
        self._does_without: set[str] = set()
        self._works = False
        self._client: AsyncOpenAI | None = None

    def chat(
        self, conversations: Sequence[Turns], *, max_tokens: int, json: bool = False, works: bool = False
    ) -> Iterator[tuple[int, Outcome]]:
        """Ask for the next turn of each conversation at temperature 0; yields ``(position, outcome)`` as they come.

        ``json`` asks for a JSON object where the endpoint knows how. ``works``: it answered others before, so that a
        403 is no refused key unless the greeting meets it too.

        Raises:
            RipcurrentError: The endpoint does not work, or fails `GIVE_UP_AFTER` requests in a row or all of them.
                What came before was yielded. Rejections alone are no failure where it then takes `GREETING`.
        """
        self._works = self._works or works
        waiting = iter(enumerate(conversations))
        opening = [turn for turn in next(iter(conversations), ()) if turn["role"] == "system"]
        ask = partial(self._ask, max_tokens=max_tokens, json=json)
        greet = partial(ask, [*opening, {"role": "user", "content": GREETING}])
        running: dict[Future[Outcome], int] = {}
        failed: list[EndpointFailure] = []  # in a row
        any_reply, stopped = False, None
        try:
            while True:
                while stopped is None and len(running) < self.concurrency:
                    index, messages = next(waiting, (-1, ()))
                    if index < 0:
                        break
                    running[_start(ask(messages))] = index
                if not running:
                    break
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda one: running[one]):
                    index = running.pop(future)
                    try:
                        outcome = future.result()
                    except RipcurrentError as error:
                        # the others under way may still bring what was paid for
                        stopped = stopped or error
                        continue
                    if isinstance(outcome, Reply):
                        failed, any_reply, self._works = [], True, True
                    else:
                        failed.append(outcome)
                    yield index, outcome
                    if len(failed) >= GIVE_UP_AFTER and stopped is None:
                        stopped = self._diagnose(failed, f"{len(failed)} requests in a row", greet)
                        failed = []
        finally:
            for future in running:
                future.cancel()
        if stopped is None and failed and not any_reply:
            stopped = self._diagnose(failed, "every request", greet, at_end=True)
        if stopped is not None:
            raise stopped

    def describe(self) -> EndpointInfo:
        """What a manifest keeps of it."""
        own = "the model's own" if "temperature" in self._does_without else None
        return EndpointInfo(base_url=self.base_url, model=self.model, temperature=own)

    async def _ask(self, messages: Turns, *, max_tokens: int, json: bool) -> Outcome:
        import openai

        if self._client is None:
            self._client = openai.AsyncOpenAI(
                base_url=self._url, api_key=self._key, timeout=self._timeout, max_retries=self._attempts - 1
            )
            if not self._own_host:
                # the client reads OpenAI's from the environment
                self._client.organization = self._client.project = None
        limit = "max_completion_tokens" if "max_tokens" in self._does_without else "max_tokens"
        request: dict[str, Any] = {"model": self.model, "messages": list(messages), limit: max_tokens}
        optional = {"temperature": 0.0, **({"response_format": {"type": "json_object"}} if json else {})}
        request |= {field: value for field, value in optional.items() if field not in self._does_without}
        asked: Any = self._client.chat.completions.create(**request)
        whole = WHOLE * self._timeout * self._attempts
        try:
            completion = await asyncio.wait_for(asked, whole)
        except TimeoutError:
            return EndpointFailure("timeout", f"no whole answer within {whole:g} s")
        except openai.APITimeoutError:
            return EndpointFailure("timeout", f"no answer within {self._timeout:g} s in {self._attempts} attempts")
        except openai.APIConnectionError as error:
            if self._works and type(error.__cause__).__name__ not in ("ConnectError", "ProxyError", "NoneType"):
                # a server that is there let this request go: another may fare better
                return EndpointFailure("server_error", f"the connection was lost: {self._said(error)}")
            raise self._error(f"cannot be reached: {self._said(error)}.", "Check the URL and that it runs.") from error
        except openai.APIStatusError as error:
            if self._can_do_without(request, error):
                return await self._ask(messages, max_tokens=max_tokens, json=json)
            return self._refused(error)
        except (openai.OpenAIError, ValueError) as error:
            return EndpointFailure("nonsense", f"its answer could not be read: {self._said(error)}")
        return _read(completion)

    def _can_do_without(self, request: Collection[str], error: APIStatusError) -> bool:
        """Whether the endpoint objects to a field that later requests can leave out."""
        said = error.message if error.status_code in (400, 422) else ""
        fields = (("response_format", "response_format"), ("temperature", "temperature"))
        for field, named in (*fields, ("max_tokens", "max_completion_tokens")):
            if field in request and named in said:
                self._does_without.add(field)
                return True
        return False

    def _refused(self, error: APIStatusError) -> EndpointFailure:
        """The failure of one request that got an error's status; raises for what every request would meet."""
        status, said = error.status_code, self._said(error)
        filtered = status == FORBIDDEN and (self._works or any(word in said.lower() for word in MODERATION))
        if status in (401, FORBIDDEN) and not filtered:
            raise self._key_refused(status, said) from error
        if status == 404:
            what = f"knows no model {self.model!r}, or the URL is no base URL (404): {said}"
            raise self._error(what, "Check the model's name there; the URL usually ends in /v1.", ExitCode.USAGE)
        if status in (402, 429):
            hint = "Wait, or check the quota; the same command then goes on where it stopped."
            raise self._error(f"takes no more requests ({status}): {said}", hint) from error
        kind: FailureKind = "server_error" if status >= 500 or status in (408, 409) else "rejected"
        return EndpointFailure(kind, f"{status}: {said}", forbidden=filtered)

    def _diagnose(
        self,
        failed: Sequence[EndpointFailure],
        how_many: str,
        greet: Callable[[], Coroutine[Any, Any, Outcome]],
        *,
        at_end: bool = False,
    ) -> RipcurrentError | None:
        """The error of an endpoint that failed all of these; None where it takes a greeting and so does work.

        After silence it is greeted only ``at_end``, as each further silence takes minutes.
        """
        kinds = {failure.kind for failure in failed}
        if at_end or "timeout" not in kinds:
            try:
                greeted = _start(greet()).result()
            except RipcurrentError as error:
                return error
            if isinstance(greeted, Reply):
                return None
            if greeted.forbidden:
                return self._key_refused(FORBIDDEN, greeted.message.partition(": ")[2])
        longer = "Allow it a longer silence, or c" if "timeout" in kinds else "C"
        hint = f"{longer}heck the server's own log; the same command then goes on where it stopped."
        return self._error(f"failed {how_many}; the last: {failed[-1].message}.", hint)

    def _key_refused(self, status: int, said: str) -> RipcurrentError:
        return self._error(f"refuses the key ({status}): {said}", self._key_hint, ExitCode.USAGE)

    def _error(self, what: str, hint: str, code: ExitCode = ExitCode.NOT_MEASURED) -> RipcurrentError:
        return RipcurrentError(f"The endpoint {self.base_url} {what}", hint, code=code)

    def _said(self, error: BaseException) -> str:
        """The first line of what is beneath the client's "Connection error.", without the key."""
        while error.__cause__ is not None:
            error = error.__cause__
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        return line if self._key == _address.NO_KEY else line.replace(self._key, "…")


def _read(completion: Any) -> Outcome:
    """The reply in an answer, which may be anything: the client checks no field."""
    choices = getattr(completion, "choices", None)
    first = choices[0] if isinstance(choices, list) and choices else None
    message = getattr(first, "message", None)
    if message is None:
        shown = repr(completion[:60]) if isinstance(completion, str) else "it has no choices"
        return EndpointFailure("nonsense", f"its answer is no chat completion: {shown}")
    # OpenAI's models refuse a JSON answer in a field of its own
    text = getattr(message, "content", None) or getattr(message, "refusal", None) or ""
    if not isinstance(text, str):
        return EndpointFailure("nonsense", "its answer's content is no text")
    reason = getattr(first, "finish_reason", None)
    if reason == "content_filter" and not text:
        return EndpointFailure("rejected", "its filter withheld the answer")
    tokens = getattr(getattr(completion, "usage", None), "completion_tokens", None)
    return Reply(
        writable(text), reason if isinstance(reason, str) else None, tokens if isinstance(tokens, int) else None
    )


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own: a notebook's is already running. Nobody waits for it at exit."""
    loop = asyncio.new_event_loop()
    Thread(target=loop.run_forever, name="endpoint", daemon=True).start()
    return loop


def _start(asked: Coroutine[Any, Any, Outcome]) -> Future[Outcome]:
    return asyncio.run_coroutine_threadsafe(asked, _loop())
