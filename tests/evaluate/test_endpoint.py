"""The endpoint client against a real HTTP server: replies, retries, and one clear error for what cannot be mended."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import replace
from itertools import count
from time import monotonic
from typing import Any

import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate._endpoint import GIVE_UP_AFTER, GREETING, Endpoint, EndpointFailure, EndpointInfo, Reply
from tests.evaluate.scripted_server import Answered, Script, completion, error, last_user_text, serve

USER = {"role": "user", "content": "hi"}


def ask(endpoint: Endpoint, *texts: str, **options: Any) -> dict[int, Reply | EndpointFailure]:
    return dict(endpoint.chat([[{"role": "user", "content": text}] for text in texts], max_tokens=16, **options))


def all_but(text: str, **how: Any) -> Script:
    """A script that answers at once, but to this text in some other way."""
    return lambda request: replace(completion("fine"), **(how if last_user_text(request) == text else {}))


def test_each_conversation_gets_its_own_reply():
    with serve(lambda request: completion(f"echo {last_user_text(request)}")) as server:
        replies = ask(Endpoint(server.url, "tiny"), *(f"q{number}" for number in range(20)))
    assert {index: reply.text for index, reply in replies.items()} == {i: f"echo q{i}" for i in range(20)}
    assert all(request["temperature"] == 0 and request["max_tokens"] == 16 for request in server.requests)
    assert server.requests[0]["model"] == "tiny"


def test_no_more_requests_at_once_than_asked_for():
    def slow(request: dict[str, Any]) -> Answered:
        answered = completion("yes")
        answered.delay = 0.05
        return answered

    with serve(slow) as server:
        ask(Endpoint(server.url, "tiny", concurrency=3), *"abcdefghijkl")
    assert server.most_at_once == 3


def test_reply_at_the_limit_is_truncated():
    with serve(lambda _: completion("and so on", finish_reason="length", tokens=16)) as server:
        reply = ask(Endpoint(server.url, "tiny"), "go on")[0]
    assert isinstance(reply, Reply)
    assert reply.truncated
    assert reply.completion_tokens == 16


def test_halves_of_characters_are_replaced():
    with serve(lambda _: completion("half \ud83d pair")) as server:
        reply = ask(Endpoint(server.url, "tiny"), "hi")[0]
    assert isinstance(reply, Reply)
    assert reply.text == "half ? pair"


def test_an_answer_that_a_filter_withheld_is_a_rejection():
    def script(request: dict[str, Any]) -> Answered:
        greeted = last_user_text(request) == GREETING
        return completion("hello") if greeted else completion("", finish_reason="content_filter")

    with serve(script) as server:
        withheld = ask(Endpoint(server.url, "tiny"), "hi", works=True)[0]
    assert isinstance(withheld, EndpointFailure)
    assert (withheld.kind, withheld.message) == ("rejected", "its filter withheld the answer")
    with serve(lambda _: completion("Take the", finish_reason="content_filter")) as server:
        begun = ask(Endpoint(server.url, "tiny"), "hi")[0]
    assert isinstance(begun, Reply), "what was answered before the filter came in is an answer"


def test_server_errors_are_tried_again():
    attempt = count()

    def flaky(request: dict[str, Any]) -> Answered:
        return completion("at last") if next(attempt) == 2 else error(503, "busy", **{"Retry-After": "0.01"})

    with serve(flaky) as server:
        assert ask(Endpoint(server.url, "tiny", max_retries=3), "hi")[0] == Reply("at last", "stop", 3)
    assert len(server.requests) == 3


def test_one_request_that_fails_leaves_the_others():
    def script(request: dict[str, Any]) -> Answered:
        return error(400, "too long") if last_user_text(request) == "long" else completion("fine")

    with serve(script) as server:
        replies = ask(Endpoint(server.url, "tiny"), "a", "long", "b")
    failure = replies[1]
    assert isinstance(failure, EndpointFailure)
    assert failure.kind == "rejected"
    assert "too long" in failure.message
    assert replies[0] == replies[2] == Reply("fine", "stop", 3)


@pytest.mark.parametrize("failing", [error(500, "no"), Answered(body='{"error": "x"}'), error(400, "too long")])
def test_what_an_endpoint_that_works_fails_on_each_time_stays_unanswered(failing):
    with serve(lambda request: failing if last_user_text(request) != GREETING else completion("hi")) as server:
        # one question is left of many that were answered before, or more than failures in a row
        for asked in ("a", "abcdefghijkl"):
            got = ask(Endpoint(server.url, "tiny", max_retries=0, concurrency=1), *asked, works=True)
            assert len(got) == len(asked)
            assert all(isinstance(one, EndpointFailure) for one in got.values())
    # nor does one question that takes too long stop what goes on behind it
    with serve(all_but("slow", delay=0.6)) as server:
        (slow,) = ask(Endpoint(server.url, "tiny", timeout=0.2, max_retries=0), "slow", works=True).values()
        assert isinstance(slow, EndpointFailure)
        assert slow.kind == "timeout"
    # one that fails on everything, greetings too, does not work any more
    with serve(lambda _: failing) as server, pytest.raises(RipcurrentError, match="failed 8 requests in a row"):
        ask(Endpoint(server.url, "tiny", max_retries=0, concurrency=1), *"abcdefghijkl", works=True)


def test_a_slow_endpoint_stops_after_some_in_a_row_and_says_so():
    with (
        serve(all_but("never", delay=0.3)) as server,
        pytest.raises(RipcurrentError, match="failed 8 requests in a row") as caught,
    ):
        ask(Endpoint(server.url, "tiny", timeout=0.05, max_retries=0), *(["never"] * 12), works=True)
    assert "longer silence" in (caught.value.hint or "")


def test_a_model_that_takes_no_temperature_is_asked_without_one():
    def script(request: dict[str, Any]) -> Answered:
        return error(400, "Unsupported value: 'temperature'") if "temperature" in request else completion("fine")

    with serve(script) as server:
        endpoint = Endpoint(server.url, "tiny", max_retries=0, concurrency=1)
        assert all(isinstance(one, Reply) for one in ask(endpoint, *"abc").values())
        assert len(server.requests) == 4
    assert endpoint.describe().temperature == "the model's own"


def test_an_endpoint_that_echoes_the_key_does_not_get_it_shown():
    with (
        serve(lambda _: error(401, "bad key sk-secret")) as server,
        pytest.raises(RipcurrentError, match="bad key …"),
    ):
        ask(Endpoint(server.url, "tiny", api_key="sk-secret", max_retries=0), "a")
    for url in ("https://me:sk-secret@host:port/v1", "me:sk-secret@host/v1"):
        with pytest.raises(RipcurrentError, match="is no endpoint") as caught:
            Endpoint(url, "tiny")
        assert "sk-secret" not in str(caught.value)


def test_endpoint_down():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(RipcurrentError, match="cannot be reached") as caught:
            ask(Endpoint(url, "tiny", max_retries=0), "hi")
    assert url in caught.value.message
    assert caught.value.code == ExitCode.NOT_MEASURED


@pytest.mark.parametrize(
    ("status", "says", "code"),
    [
        (401, "refuses the key", ExitCode.USAGE),
        (403, "refuses the key", ExitCode.USAGE),
        (404, "knows no model 'tiny'", ExitCode.USAGE),
        (402, "takes no more requests", ExitCode.NOT_MEASURED),
        (429, "takes no more requests", ExitCode.NOT_MEASURED),
    ],
)
def test_what_every_request_would_meet_stops_at_once(status, says, code):
    with (
        serve(lambda _: error(status, "you may not")) as server,
        pytest.raises(RipcurrentError, match=says) as caught,
    ):
        ask(Endpoint(server.url, "tiny", max_retries=0, concurrency=2), *"abcdefghij")
    assert caught.value.code == code
    assert "you may not" in caught.value.message
    assert len(server.requests) <= 3


def test_a_filter_that_forbids_is_no_bad_key():
    def script(request: dict[str, Any]) -> Answered:
        return error(403, "no") if last_user_text(request) in "bdg" else completion("fine")

    with serve(script) as server:
        got = ask(Endpoint(server.url, "tiny", max_retries=0, concurrency=1), *"abcdefgh")
        assert {n for n, one in got.items() if isinstance(one, EndpointFailure)} == {1, 3, 6}
        assert all(got[n].kind == "rejected" for n in (1, 3, 6))
        # another call: what it answered before says that the key is good
        again = ask(Endpoint(server.url, "tiny", max_retries=0), *"bdg", works=True)
        assert [one.kind for one in again.values()] == ["rejected"] * 3
    # and without any answer before, where the filter says so itself
    with serve(lambda r: completion("hi") if last_user_text(r) == GREETING else error(403, "flagged")) as server:
        got = ask(Endpoint(server.url, "tiny", max_retries=0), *"abc")
        assert [one.kind for one in got.values()] == ["rejected"] * 3


def test_a_key_that_is_withdrawn_midway_stops_the_run():
    attempt = count()
    with (
        serve(lambda _: completion("fine") if next(attempt) < 2 else error(403, "revoked")) as server,
        pytest.raises(RipcurrentError, match=r"refuses the key \(403\): .*revoked"),
    ):
        ask(Endpoint(server.url, "tiny", max_retries=0, concurrency=1), *("q" * 40))
    assert len(server.requests) == 2 + GIVE_UP_AFTER + 1


def test_replies_before_the_end_of_the_quota_are_kept():
    attempt = count()

    def script(request: dict[str, Any]) -> Answered:
        return completion("fine") if next(attempt) < 4 else error(429, "quota used up")

    got: list[Any] = []
    with serve(script) as server:
        replies = Endpoint(server.url, "tiny", max_retries=0).chat([[USER]] * 9, max_tokens=16)
        with pytest.raises(RipcurrentError, match="takes no more requests"):
            got.extend(replies)
    assert len(got) == 4


NONSENSE = [
    Answered(body="<html>Welcome</html>", content_type="text/html"),
    Answered(body='{"choices": [{"mess'),
    Answered(body='{"choices": []}'),
    Answered(body='{"choices": null}'),
    Answered(body='{"choices": [{"message": null}]}'),
    Answered(body='{"choices": [17]}'),
    Answered(body='{"choices": [{"message": {"content": 12}}]}'),
    Answered(body='{"error": "no such thing"}'),
    Answered(body="[]"),
    Answered(body='"yes"'),
    Answered(body=""),
    Answered(body="null"),
]


@pytest.mark.parametrize("nonsense", NONSENSE, ids=lambda answered: answered.body or "empty")
def test_nonsense(nonsense):
    def script(request: dict[str, Any]) -> Answered:
        return nonsense if last_user_text(request) == "odd" else completion("fine")

    with serve(script) as server:
        replies = ask(Endpoint(server.url, "tiny", max_retries=0), "odd", "plain")
    assert isinstance(replies[0], EndpointFailure)
    assert replies[0].kind == "nonsense"
    assert isinstance(replies[1], Reply)


def test_a_broken_endpoint_is_not_asked_everything():
    with serve(lambda _: error(500, "broken")) as server, pytest.raises(RipcurrentError, match="in a row"):
        ask(Endpoint(server.url, "tiny", max_retries=0, concurrency=2), *map(str, range(100)))
    assert len(server.requests) <= GIVE_UP_AFTER + 2


def test_an_endpoint_that_rejects_everything_is_not_asked_everything():
    with serve(lambda _: error(400, "no such model")) as server, pytest.raises(RipcurrentError, match="in a row"):
        ask(Endpoint(server.url, "tiny", concurrency=2), *map(str, range(100)))
    assert len(server.requests) <= GIVE_UP_AFTER + 3


@pytest.mark.parametrize("count", [3, 20])
def test_an_endpoint_that_takes_a_greeting_rejects_the_rest_for_what_is_in_it(count):
    def script(request: dict[str, Any]) -> Answered:
        return completion("hello") if last_user_text(request) == GREETING else error(400, "filtered")

    with serve(script) as server:
        endpoint = Endpoint(server.url, "tiny", max_retries=0)
        conversations = [[{"role": "system", "content": "Be brief."}, USER]] * count
        replies = dict(endpoint.chat(conversations, max_tokens=16))
    assert len(replies) == count
    assert all(isinstance(reply, EndpointFailure) and reply.kind == "rejected" for reply in replies.values())
    greeted = [request for request in server.requests if last_user_text(request) == GREETING]
    assert len(greeted) == 1 + count // GIVE_UP_AFTER, "once for so many in a row"
    assert {request["messages"][0]["content"] for request in greeted} == {"Be brief."}


def test_rejections_do_not_hide_that_an_endpoint_broke():
    def script(request: dict[str, Any]) -> Answered:
        number = int(last_user_text(request))
        return completion("fine") if number == 0 else error(400 if number % 2 else 500, "no")

    with serve(script) as server, pytest.raises(RipcurrentError, match="8 requests in a row"):
        ask(Endpoint(server.url, "tiny", max_retries=0, concurrency=1), *map(str, range(40)))
    assert len(server.requests) <= 18


@pytest.mark.parametrize("status", [408, 409])
def test_passing_trouble_is_no_rejection(status):
    def script(request: dict[str, Any]) -> Answered:
        return error(status, "not now") if last_user_text(request) == "b" else completion("fine")

    with serve(script) as server:
        failure = ask(Endpoint(server.url, "tiny", max_retries=0), "a", "b")[1]
    assert isinstance(failure, EndpointFailure)
    assert failure.kind == "server_error"


def test_json_is_asked_for_and_done_without_where_unknown():
    def script(request: dict[str, Any]) -> Answered:
        if "response_format" in request:
            return error(400, "unknown field response_format")
        return completion(json.dumps({"score": 1}))

    with serve(script) as server:
        endpoint = Endpoint(server.url, "tiny", concurrency=1)
        replies = ask(endpoint, "a", "b", json=True)
    assert all(isinstance(reply, Reply) and reply.text == '{"score": 1}' for reply in replies.values())
    assert [("response_format" in request) for request in server.requests] == [True, False, False]


def test_newer_name_of_the_token_limit():
    def script(request: dict[str, Any]) -> Answered:
        if "max_tokens" in request:
            return error(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        return completion("fine")

    with serve(script) as server:
        assert ask(Endpoint(server.url, "tiny", concurrency=1), "a")[0] == Reply("fine", "stop", 3)
    assert server.requests[-1]["max_completion_tokens"] == 16


def test_keys(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai")
    monkeypatch.delenv("RIPCURRENT_API_KEY", raising=False)
    with serve(lambda _: completion("fine")) as server:
        ask(Endpoint(server.url, "tiny"), "a")
        monkeypatch.setenv("RIPCURRENT_API_KEY", "mine")
        ask(Endpoint(server.url, "tiny"), "a")
        ask(Endpoint(server.url, "tiny", api_key="given"), "a")
    sent = [headers["authorization"] for headers in server.headers]
    # a key of OpenAI's goes to no other host
    assert sent == ["Bearer none", "Bearer mine", "Bearer given"]


def test_description_has_no_secrets():
    endpoint = Endpoint("http://me:secret@localhost:1/v1/", "tiny", api_key="secret")
    assert endpoint.describe() == EndpointInfo(base_url="http://localhost:1/v1", model="tiny")


@pytest.mark.parametrize(
    "url", ["localhost:8000/v1", "ftp://host/v1", "", "http://", "http://localhost:80a/v1", "http://[::1/v1"]
)
def test_no_url(url):
    with pytest.raises(RipcurrentError, match="is no endpoint"):
        Endpoint(url, "tiny")


def test_a_url_with_a_query_takes_no_path():
    with pytest.raises(RipcurrentError, match=r"localhost:1/v1 has a part behind \? or #") as caught:
        Endpoint("http://localhost:1/v1?token=secret", "tiny")
    assert "secret" not in caught.value.message


def test_a_key_with_white_space_is_sent_without_it_and_an_empty_one_is_none(monkeypatch):
    with serve(lambda _: completion("fine")) as server:
        ask(Endpoint(server.url, "tiny", api_key="padded\r\n"), "a")
        monkeypatch.setenv("RIPCURRENT_API_KEY", "")
        ask(Endpoint(server.url, "tiny"), "a")
    assert [headers["authorization"] for headers in server.headers] == ["Bearer padded", "Bearer none"]
    monkeypatch.setenv("OPENAI_API_KEY", "of-openai")
    with pytest.raises(RipcurrentError, match="MY_KEY holds a key with characters") as caught:
        Endpoint("https://api.openai.com/v1", "tiny", api_key="sk-\u201csecret\u201d", key_variable="MY_KEY")
    assert "secret" not in caught.value.message


def test_what_belongs_to_openai_goes_to_no_other_host(monkeypatch):
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    with serve(lambda _: completion("fine")) as server:
        ask(Endpoint(server.url, "tiny"), "a")
    assert not [name for name in server.headers[0] if name.startswith(("openai-org", "openai-proj"))]


@pytest.mark.parametrize("works", [False, True])
def test_an_account_that_is_used_up_is_no_filter_of_prompts(works):
    """Some answer 400 then: else all that is left would be recorded as rejected for good."""
    attempt = count()

    def script(request: dict[str, Any]) -> Answered:
        return completion("fine") if not works and next(attempt) < 2 else error(400, "balance is too low")

    got: list[int] = []
    with serve(script) as server:
        replies = Endpoint(server.url, "tiny", max_retries=0, concurrency=1).chat(
            [[USER]] * 40, max_tokens=16, works=works
        )
        with pytest.raises(RipcurrentError, match="balance is too low"):
            got.extend(index for index, _ in replies)
    assert len(got) == GIVE_UP_AFTER + (0 if works else 2)
    with serve(lambda _: error(400, "balance is too low")) as server:
        replies = Endpoint(server.url, "tiny", max_retries=0).chat([[USER]] * 3, max_tokens=16, works=True)
        with pytest.raises(RipcurrentError, match="balance is too low"):
            list(replies)


def test_an_answer_that_never_ends_is_a_timeout():
    """Blanks that keep a connection open are no silence."""

    with serve(all_but("slow", drip=True)) as server:
        began = monotonic()
        replies = ask(Endpoint(server.url, "tiny", timeout=0.5, max_retries=0), "slow", "fast")
        assert monotonic() - began < 10
    assert isinstance(replies[0], EndpointFailure)
    assert (replies[0].kind, replies[0].message) == ("timeout", "no whole answer within 1 s")
    assert isinstance(replies[1], Reply)


def test_a_connection_that_is_dropped_is_one_requests_failure():
    with serve(all_but("bad", drop=True)) as server:
        endpoint = Endpoint(server.url, "tiny", max_retries=0, concurrency=1)
        replies = ask(endpoint, "a", "bad", "c")
    assert isinstance(replies[1], EndpointFailure)
    assert replies[1].kind == "server_error"
    assert isinstance(replies[2], Reply)


def test_a_stopped_run_does_not_wait_for_what_is_under_way():
    code = (
        "import sys\n"
        "from ripcurrent.evaluate._endpoint import Endpoint\n"
        "turns = [[{'role': 'user', 'content': text}] for text in ('fast', 'slow', 'slow')]\n"
        "next(Endpoint(sys.argv[1], 'tiny', max_retries=0, concurrency=3).chat(turns, max_tokens=16))\n"
    )

    with serve(all_but("slow", delay=40.0)) as server:
        subprocess.run([sys.executable, "-c", code, server.url], check=True, timeout=30)
