"""The endpoint client against a real HTTP server: replies, retries, and one clear error for what cannot be mended."""

import socket
import subprocess
import sys
from collections.abc import Collection
from itertools import count
from time import monotonic
from typing import Any

import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate._endpoint import GIVE_UP_AFTER, GREETING, Endpoint, EndpointFailure, EndpointInfo, Reply
from tests.evaluate.scripted_server import Answered, Script, completion, error, last_user_text, serve

FINE = Reply("fine", False, 3)


def at(server: Any, **options: Any) -> Endpoint:
    return Endpoint(server.url, "tiny", **{"max_retries": 0, **options})


def ask(endpoint: Endpoint, *texts: str, **options: Any) -> dict[int, Reply | EndpointFailure]:
    return dict(endpoint.chat([[{"role": "user", "content": text}] for text in texts], max_tokens=16, **options))


def kinds(outcomes: dict[int, Reply | EndpointFailure]) -> list[str]:
    return [outcomes[n].kind if isinstance(outcomes[n], EndpointFailure) else "reply" for n in sorted(outcomes)]


def all_but(texts: Collection[str], answered: Answered) -> Script:
    """A script that answers at once, but to these texts in some other way."""
    return lambda request: answered if last_user_text(request) in texts else completion("fine")


def nothing_but(text: str, said: Answered, answered: Answered) -> Script:
    return lambda request: said if last_user_text(request) == text else answered


def test_each_conversation_gets_its_own_reply():
    def echo(request: dict[str, Any]) -> Answered:
        return completion(f"echo {last_user_text(request)}", delay=0.05)

    with serve(echo) as server:
        replies = ask(at(server, concurrency=3), *(f"q{number}" for number in range(20)))
    assert {index: reply.text for index, reply in replies.items()} == {i: f"echo q{i}" for i in range(20)}
    assert all(request["temperature"] == 0 and request["max_tokens"] == 16 for request in server.requests)
    assert server.requests[0]["model"] == "tiny"
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        ([completion("and so on", finish_reason="length", tokens=16)], Reply("and so on", True, 16)),
        ([completion("half \ud83d pair")], Reply("half ? pair", False, 3)),
        # what was answered before the filter came in is an answer
        ([completion("Take the", finish_reason="content_filter")], Reply("Take the", False, 3)),
        ([completion("fine", tokens=None)], Reply("fine", False, None)),
        # server errors are tried again
        ([*[error(503, "busy", **{"Retry-After": "0.01"})] * 2, completion("fine")], FINE),
    ],
)
def test_a_reply(said, reply):
    answers = iter(said)
    with serve(lambda _: next(answers)) as server:
        assert ask(at(server, max_retries=3), "go on") == {0: reply}
    assert next(answers, None) is None


NONSENSE = (
    *("", "null", "[]", "<html>Welcome</html>", '{"error": "x"}', '{"choices": [{"mess', '{"choices": []}'),
    *('{"choices": [{"message": null}]}', '{"choices": [{"message": {"content": 12}}]}'),
)


@pytest.mark.parametrize(
    ("odd", "kind", "says"),
    [
        (error(400, "too long"), "rejected", "too long"),
        (error(403, "no"), "rejected", "403: Error code: 403"),
        (completion("", finish_reason="content_filter"), "rejected", "its filter withheld the answer"),
        (error(408, "not now"), "server_error", "not now"),
        (Answered(drop=True), "server_error", "the connection was lost"),
        # blanks that keep a connection open are no silence
        (Answered(drip=True, body="{}" * 300), "timeout", "no whole answer in 1 × 0.5 s"),
        (Answered(body="<html>Welcome</html>", content_type="text/html"), "nonsense", "no chat completion"),
        *((Answered(body=body), "nonsense", "no chat completion") for body in NONSENSE),
    ],
)
def test_one_request_that_fails_leaves_the_others(odd, kind, says):
    with serve(all_but(["odd"], odd)) as server:
        began = monotonic()
        replies = ask(at(server, timeout=0.5, concurrency=1), "a", "odd", "b")
        assert monotonic() - began < 10
    assert kinds(replies) == ["reply", kind, "reply"]
    assert says in replies[1].message
    assert replies[0] == replies[2] == FINE


@pytest.mark.parametrize(
    "failing", [error(500, "no"), Answered(body='{"error": "x"}'), error(400, "filtered"), error(403, "forbidden")]
)
def test_what_an_endpoint_that_takes_a_greeting_fails_on_each_time_stays_unanswered(failing):
    with serve(nothing_but(GREETING, completion("hello"), failing)) as server:
        # one question is left of many that were answered before, or more than failures in a row
        for asked in ("a", "abcdefghijklmnopqrst"):
            assert kinds(ask(at(server, concurrency=1), *asked)).count("reply") == 0
    greeted = [request for request in server.requests if last_user_text(request) == GREETING]
    assert len(greeted) == 1 + (20 // GIVE_UP_AFTER + 1), "once for so many in a row"
    # one that fails on everything, greetings too, does not work any more
    says = "failed 8 requests in a row|refuses the key"
    with serve(lambda _: failing) as server, pytest.raises(RipcurrentError, match=says):
        ask(at(server, concurrency=2), *map(str, range(100)))
    assert len(server.requests) <= GIVE_UP_AFTER + 3, "it is not asked everything"


def test_a_slow_endpoint_stops_after_some_in_a_row_and_says_so():
    with serve(all_but(["slow"], completion("fine", delay=0.3))) as server:
        # one question that takes too long does not stop what goes on behind it
        assert kinds(ask(at(server, timeout=0.1), "slow")) == ["timeout"]
        with pytest.raises(RipcurrentError, match="failed 8 requests in a row") as caught:
            ask(at(server, timeout=0.05), *(["slow"] * 12))
    assert "longer silence" in caught.value.hint


@pytest.mark.parametrize(
    ("field", "says", "sent"),
    [
        ("temperature", "Unsupported value: 'temperature'", {}),
        ("response_format", "unknown field response_format", {}),
        ("max_tokens", "'max_tokens' is not supported. Use 'max_completion_tokens'", {"max_completion_tokens": 16}),
    ],
)
def test_a_field_that_an_endpoint_does_not_know_is_done_without(field, says, sent):
    with serve(lambda request: error(400, says) if field in request else completion("fine")) as server:
        endpoint = at(server, concurrency=1)
        assert ask(endpoint, "a", "b", json=True) == {0: FINE, 1: FINE}
    assert [field in request for request in server.requests] == [True, False, False]
    assert sent.items() <= server.requests[-1].items()
    assert endpoint.describe().temperature == ("the model's own" if field == "temperature" else None)


def test_endpoint_down():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(RipcurrentError, match=f"{url} cannot be reached") as caught:
            ask(Endpoint(url, "tiny", max_retries=0), "hi")
    assert caught.value.code == ExitCode.NOT_MEASURED


@pytest.mark.parametrize(
    ("status", "says", "code"),
    [
        (401, "refuses the key", ExitCode.USAGE),
        (404, "knows no model 'tiny'", ExitCode.USAGE),
        *((status, "takes no more requests", ExitCode.NOT_MEASURED) for status in (402, 429)),
    ],
)
def test_what_every_request_would_meet_stops_at_once(status, says, code):
    got = []
    fails = nothing_but("b", completion("late", delay=0.3), error(status, "you may not"))
    with serve(fails) as server, pytest.raises(RipcurrentError, match=says) as caught:
        got.extend(at(server, concurrency=2).chat([[{"role": "user", "content": q}] for q in "abcdef"], max_tokens=16))
    assert [index for index, _ in got] == [1], "what was under way was paid for"
    assert caught.value.code == code
    assert "you may not" in caught.value.message
    assert len(server.requests) <= 3


@pytest.mark.parametrize(
    ("broken", "before", "questions", "came", "says"),
    [
        # what an account that is used up, or a bad key, rejects must not be recorded as rejected for good
        ([error(400, "balance is low")], 2, 40, 2 + GIVE_UP_AFTER, "8 requests in a row; .*balance is low"),
        ([error(400, "balance is low")], 0, 3, 3, "failed every request; .*balance is low"),
        ([error(403, "revoked")], 2, 40, 2 + GIVE_UP_AFTER, r"refuses the key \(403\): .*revoked"),
        ([error(429, "quota used up")], 4, 9, 4, "takes no more requests"),
        # rejections do not hide that it broke
        ([error(400, "no"), error(500, "no")], 1, 40, 1 + GIVE_UP_AFTER, "8 requests in a row"),
    ],
)
def test_an_endpoint_that_breaks_stops_and_what_came_is_kept(broken, before, questions, came, says):
    attempt = count()

    def script(_: Any) -> Answered:
        number = next(attempt)
        return completion("fine") if number < before else broken[number % len(broken)]

    got = []
    with serve(script) as server, pytest.raises(RipcurrentError, match=says):
        got.extend(at(server, concurrency=1).chat([[{"role": "user", "content": "hi"}]] * questions, max_tokens=16))
    assert len(got) == came


def test_keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    monkeypatch.setenv("GIVEN", "padded\r\n")
    with serve(lambda _: completion("fine")) as server:
        for mine, options in (("", {}), ("mine", {}), ("mine", {"key_env": "GIVEN"})):
            monkeypatch.setenv("RIPCURRENT_API_KEY", mine)
            ask(at(server, **options), "a")
    # a key of OpenAI's goes to no other host
    assert [headers["authorization"] for headers in server.headers] == ["Bearer none", "Bearer mine", "Bearer padded"]
    assert not [name for headers in server.headers for name in headers if name.startswith("openai-")]
    monkeypatch.setenv("GIVEN", "sk-\u201csecret\u201d")
    for variable, says in (("GIVEN", "GIVEN holds a key with characters"), ("ABSENT", "ABSENT.* is not set")):
        with pytest.raises(RipcurrentError, match=says) as caught:
            Endpoint("https://api.openai.com/v1", "tiny", key_env=variable)
        assert "secret" not in str(caught.value)
    # one that is echoed is not shown, nor is one in the URL
    monkeypatch.setenv("RIPCURRENT_API_KEY", "sk-secret")
    with serve(lambda _: error(401, "bad key sk-secret")) as server, pytest.raises(RipcurrentError, match="bad key …"):
        ask(at(server), "a")
    endpoint = Endpoint("http://me:sk-secret@localhost:1/v1/", "tiny")
    assert endpoint.describe() == EndpointInfo(base_url="http://localhost:1/v1", model="tiny")


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000/v1", "ftp://host/v1", "http://", "http://[::1/v1", "http://localhost:80a/v1"),
        *("https://me:sk-secret@host:port/v1", "me:sk-secret@host/v1", "http://localhost:1/v1?token=sk-secret"),
    ],
)
def test_no_url(url):
    with pytest.raises(RipcurrentError, match="is no endpoint's base URL") as caught:
        Endpoint(url, "tiny")
    assert "sk-secret" not in str(caught.value)


def test_a_stopped_run_does_not_wait_for_what_is_under_way():
    code = (
        "import sys\n"
        "from ripcurrent.evaluate._endpoint import Endpoint\n"
        "turns = [[{'role': 'user', 'content': text}] for text in ('fast', 'slow', 'slow')]\n"
        "next(Endpoint(sys.argv[1], 'tiny', max_retries=0, concurrency=3).chat(turns, max_tokens=16))\n"
    )
    with serve(all_but(["slow"], completion("fine", delay=40.0))) as server:
        subprocess.run([sys.executable, "-c", code, server.url], check=True, timeout=30)
