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


def nothing_but_greetings(answered: Answered) -> Script:
    return lambda request: completion("hello") if last_user_text(request) == GREETING else answered


def test_each_conversation_gets_its_own_reply():
    def echo(request: dict[str, Any]) -> Answered:
        answered = completion(f"echo {last_user_text(request)}")
        answered.delay = 0.05
        return answered

    with serve(echo) as server:
        replies = ask(at(server, concurrency=3), *(f"q{number}" for number in range(20)))
    assert {index: reply.text for index, reply in replies.items()} == {i: f"echo q{i}" for i in range(20)}
    assert all(request["temperature"] == 0 and request["max_tokens"] == 16 for request in server.requests)
    assert server.requests[0]["model"] == "tiny"
    assert server.most_at_once == 3


@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (completion("and so on", finish_reason="length", tokens=16), Reply("and so on", True, 16)),
        (completion("half \ud83d pair"), Reply("half ? pair", False, 3)),
        # what was answered before the filter came in is an answer
        (completion("Take the", finish_reason="content_filter"), Reply("Take the", False, 3)),
        (completion("fine", tokens=None), Reply("fine", False, None)),
    ],
)
def test_a_reply(said, reply):
    with serve(lambda _: said) as server:
        assert ask(at(server), "go on") == {0: reply}


def test_server_errors_are_tried_again():
    attempt = count()

    def flaky(request: dict[str, Any]) -> Answered:
        return completion("fine") if next(attempt) == 2 else error(503, "busy", **{"Retry-After": "0.01"})

    with serve(flaky) as server:
        assert ask(at(server, max_retries=3), "hi") == {0: FINE}
    assert len(server.requests) == 3


NONSENSE = (
    *(
        "<html>Welcome</html>",
        '{"choices": [{"mess',
        '{"choices": []}',
        '{"choices": null}',
        '{"choices": [17]}',
        "null",
    ),
    *(
        '{"choices": [{"message": null}]}',
        '{"choices": [{"message": {"content": 12}}]}',
        '{"error": "x"}',
        '"yes"',
        "[]",
    ),
    "",
)


@pytest.mark.parametrize(
    ("odd", "kind", "says"),
    [
        (error(400, "too long"), "rejected", "too long"),
        (error(403, "no"), "rejected", "403: Error code: 403 - no"),
        (completion("", finish_reason="content_filter"), "rejected", "its filter withheld the answer"),
        (error(408, "not now"), "server_error", "not now"),
        (error(409, "not now"), "server_error", "not now"),
        (Answered(drop=True), "server_error", "the connection was lost"),
        # blanks that keep a connection open are no silence
        (Answered(drip=True, body="{}" * 300), "timeout", "no whole answer within 0.5 s in 1 attempts"),
        (Answered(body="<html>Welcome</html>", content_type="text/html"), "nonsense", "its answer"),
        *((Answered(body=body), "nonsense", "its answer") for body in NONSENSE),
    ],
)
def test_one_request_that_fails_leaves_the_others(odd, kind, says):
    with serve(all_but(["odd"], odd)) as server:
        began = monotonic()
        replies = ask(at(server, timeout=0.5, concurrency=1), "a", "odd", "b")
        assert monotonic() - began < 10
    failure = replies[1]
    assert isinstance(failure, EndpointFailure)
    assert failure.kind == kind
    assert says in failure.message
    assert replies[0] == replies[2] == FINE


@pytest.mark.parametrize("failing", [error(500, "no"), Answered(body='{"error": "x"}'), error(400, "too long")])
def test_what_an_endpoint_that_works_fails_on_each_time_stays_unanswered(failing):
    with serve(nothing_but_greetings(failing)) as server:
        # one question is left of many that were answered before, or more than failures in a row
        for asked in ("a", "abcdefghijkl"):
            assert kinds(ask(at(server, concurrency=1), *asked)).count("reply") == 0
    # one that fails on everything, greetings too, does not work any more
    with serve(lambda _: failing) as server, pytest.raises(RipcurrentError, match="failed 8 requests in a row"):
        ask(at(server, concurrency=2), *map(str, range(100)))
    assert len(server.requests) <= GIVE_UP_AFTER + 3, "it is not asked everything"


def test_a_slow_endpoint_stops_after_some_in_a_row_and_says_so():
    slow = completion("fine")
    slow.delay = 0.3
    with serve(all_but(["slow"], slow)) as server:
        # one question that takes too long does not stop what goes on behind it
        assert kinds(ask(at(server, timeout=0.1), "slow")) == ["timeout"]
        with pytest.raises(RipcurrentError, match="failed 8 requests in a row") as caught:
            ask(at(server, timeout=0.05), *(["slow"] * 12))
    assert "longer silence" in (caught.value.hint or "")


def test_a_model_that_takes_no_temperature_is_asked_without_one():
    def script(request: dict[str, Any]) -> Answered:
        return error(400, "Unsupported value: 'temperature'") if "temperature" in request else completion("fine")

    with serve(script) as server:
        endpoint = at(server, concurrency=1)
        assert kinds(ask(endpoint, *"abc")) == ["reply"] * 3
        assert len(server.requests) == 4
    assert endpoint.describe().temperature == "the model's own"


def test_json_is_asked_for_and_done_without_where_unknown():
    def script(request: dict[str, Any]) -> Answered:
        return error(400, "unknown field response_format") if "response_format" in request else completion("fine")

    with serve(script) as server:
        assert kinds(ask(at(server, concurrency=1), "a", "b", json=True)) == ["reply"] * 2
    assert [("response_format" in request) for request in server.requests] == [True, False, False]


def test_newer_name_of_the_token_limit():
    def script(request: dict[str, Any]) -> Answered:
        says = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return error(400, says) if "max_tokens" in request else completion("fine")

    with serve(script) as server:
        assert ask(at(server), "a") == {0: FINE}
    assert server.requests[-1]["max_completion_tokens"] == 16


def test_endpoint_down():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(RipcurrentError, match="cannot be reached") as caught:
            ask(Endpoint(url, "tiny", max_retries=0), "hi")
    assert url in caught.value.message
    assert caught.value.code == ExitCode.NOT_MEASURED


@pytest.mark.parametrize(
    ("status", "says", "code", "most"),
    [
        (401, "refuses the key", ExitCode.USAGE, 3),
        # until it refuses a greeting, it may be a filter that forbids
        (403, "refuses the key", ExitCode.USAGE, GIVE_UP_AFTER + 3),
        (404, "knows no model 'tiny'", ExitCode.USAGE, 3),
        (402, "takes no more requests", ExitCode.NOT_MEASURED, 3),
        (429, "takes no more requests", ExitCode.NOT_MEASURED, 3),
    ],
)
def test_what_every_request_would_meet_stops_at_once(status, says, code, most):
    with serve(lambda _: error(status, "you may not")) as server, pytest.raises(RipcurrentError, match=says) as caught:
        ask(at(server, concurrency=2), *"abcdefghij")
    assert caught.value.code == code
    assert "you may not" in caught.value.message
    assert len(server.requests) <= most


def test_a_filter_that_forbids_is_no_bad_key():
    with serve(all_but("bdg", error(403, "no"))) as server:
        got = kinds(ask(at(server, concurrency=1), *"abcdefgh"))
        assert got == ["rejected" if text in "bdg" else "reply" for text in "abcdefgh"]
        # another call: what it says to a greeting says that the key is good
        assert kinds(ask(at(server), *"bdg")) == ["rejected"] * 3


def test_a_key_that_is_withdrawn_midway_stops_the_run():
    attempt = count()
    with (
        serve(lambda _: completion("fine") if next(attempt) < 2 else error(403, "revoked")) as server,
        pytest.raises(RipcurrentError, match=r"refuses the key \(403\): .*revoked"),
    ):
        ask(at(server, concurrency=1), *("q" * 40))
    assert len(server.requests) == 2 + GIVE_UP_AFTER + 1


def answered_until_it_raised(endpoint: Endpoint, times: int, says: str) -> int:
    got: list[int] = []
    with pytest.raises(RipcurrentError, match=says):
        got.extend(n for n, _ in endpoint.chat([[{"role": "user", "content": "hi"}]] * times, max_tokens=16))
    return len(got)


def test_replies_before_the_end_of_the_quota_are_kept():
    attempt = count()
    with serve(lambda _: completion("fine") if next(attempt) < 4 else error(429, "quota used up")) as server:
        assert answered_until_it_raised(at(server), 9, "takes no more requests") == 4


@pytest.mark.parametrize("before", [0, 2])
def test_an_account_that_is_used_up_is_no_filter_of_prompts(before):
    """Some answer 400 then: else all that is left would be recorded as rejected for good."""
    attempt = count()
    used_up = error(400, "balance is too low")
    with serve(lambda _: completion("fine") if next(attempt) < before else used_up) as server:
        got = answered_until_it_raised(at(server, concurrency=1), 40, "balance is too low")
        assert got == GIVE_UP_AFTER + before
        assert answered_until_it_raised(at(server), 3, "failed every request; .*balance is too low") == 3


@pytest.mark.parametrize("count", [3, 20])
def test_an_endpoint_that_takes_a_greeting_rejects_the_rest_for_what_is_in_it(count):
    with serve(nothing_but_greetings(error(400, "filtered"))) as server:
        turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
        assert kinds(dict(at(server).chat([turns] * count, max_tokens=16))) == ["rejected"] * count
    greeted = [request for request in server.requests if last_user_text(request) == GREETING]
    assert len(greeted) == 1 + count // GIVE_UP_AFTER, "once for so many in a row"
    assert {request["messages"][0]["content"] for request in greeted} == {"Be brief."}


def test_rejections_do_not_hide_that_an_endpoint_broke():
    def script(request: dict[str, Any]) -> Answered:
        text = last_user_text(request)
        return completion("fine") if text == "0" else error(400 if text.isdigit() and int(text) % 2 else 500, "no")

    with serve(script) as server, pytest.raises(RipcurrentError, match="8 requests in a row"):
        ask(at(server, concurrency=1), *map(str, range(40)))
    assert len(server.requests) <= 18


def test_keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    monkeypatch.delenv("RIPCURRENT_API_KEY", raising=False)
    monkeypatch.setenv("GIVEN", "padded\r\n")
    with serve(lambda _: completion("fine")) as server:
        ask(at(server), "a")
        monkeypatch.setenv("RIPCURRENT_API_KEY", "mine")
        ask(at(server), "a")
        ask(at(server, key_env="GIVEN"), "a")
        monkeypatch.setenv("RIPCURRENT_API_KEY", "")
        ask(at(server), "a")
    sent = [headers["authorization"] for headers in server.headers]
    # a key of OpenAI's goes to no other host
    assert sent == ["Bearer none", "Bearer mine", "Bearer padded", "Bearer none"]
    assert not [
        name for headers in server.headers for name in headers if name.startswith(("openai-org", "openai-proj"))
    ]
    monkeypatch.setenv("MY_KEY", "sk-\u201csecret\u201d")
    with pytest.raises(RipcurrentError, match="MY_KEY holds a key with characters") as caught:
        Endpoint("https://api.openai.com/v1", "tiny", key_env="MY_KEY")
    assert "secret" not in caught.value.message


def test_an_endpoint_that_echoes_the_key_does_not_get_it_shown(monkeypatch):
    monkeypatch.setenv("RIPCURRENT_API_KEY", "sk-secret")
    with serve(lambda _: error(401, "bad key sk-secret")) as server, pytest.raises(RipcurrentError, match="bad key …"):
        ask(at(server), "a")
    endpoint = Endpoint("http://me:sk-secret@localhost:1/v1/", "tiny")
    assert endpoint.describe() == EndpointInfo(base_url="http://localhost:1/v1", model="tiny")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        *((url, "is no endpoint") for url in ("localhost:8000/v1", "ftp://host/v1", "", "http://", "http://[::1/v1")),
        ("http://localhost:80a/v1", "is no endpoint"),
        ("https://me:sk-secret@host:port/v1", "is no endpoint"),
        ("me:sk-secret@host/v1", "is no endpoint"),
        ("http://localhost:1/v1?token=sk-secret", r"localhost:1/v1 has a part behind \? or #"),
    ],
)
def test_no_url(url, says):
    with pytest.raises(RipcurrentError, match=says) as caught:
        Endpoint(url, "tiny")
    assert "sk-secret" not in str(caught.value)


def test_a_stopped_run_does_not_wait_for_what_is_under_way():
    code = (
        "import sys\n"
        "from ripcurrent.evaluate._endpoint import Endpoint\n"
        "turns = [[{'role': 'user', 'content': text}] for text in ('fast', 'slow', 'slow')]\n"
        "next(Endpoint(sys.argv[1], 'tiny', max_retries=0, concurrency=3).chat(turns, max_tokens=16))\n"
    )
    slow = completion("fine")
    slow.delay = 40.0
    with serve(all_but(["slow"], slow)) as server:
        subprocess.run([sys.executable, "-c", code, server.url], check=True, timeout=30)
