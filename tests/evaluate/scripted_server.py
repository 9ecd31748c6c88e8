"""A small real HTTP server on this machine that answers chat requests as a test scripts it."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answered:
    """What the server sends back after ``delay`` seconds.

    ``drip``: blanks come in its place, a few a second, for a minute. ``drop``: the connection is closed without it.
    """

    status: int = 200
    body: str = ""
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: bool = False
    drop: bool = False


Script = Callable[[dict[str, Any]], Answered]


@dataclass
class ScriptedServer:
    """Base URL and what was asked of it: bodies and headers (names in lower case) in order of arrival."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    """Requests under way at once, at most."""


@contextmanager
def serve(script: Script) -> Iterator[ScriptedServer]:
    """A server that follows the script."""
    seen, lock = ScriptedServer(), threading.Lock()
    under_way = 0

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal under_way
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                seen.requests.append(body)
                seen.headers.append({name.lower(): value for name, value in self.headers.items()})
                under_way += 1
                seen.most_at_once = max(seen.most_at_once, under_way)
            try:
                answered = script(body) if self.path == "/v1/chat/completions" else Answered(404, "{}")
                time.sleep(answered.delay)
            finally:
                with lock:
                    under_way -= 1
            raw = answered.body.encode()
            if answered.drop:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            # a client may have given up waiting
            with suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(answered.status)
                self.send_header("Content-Type", answered.content_type)
                self.send_header("Content-Length", str(len(raw)))
                for name, value in answered.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                for _ in range(min(len(raw) - 1, 600) if answered.drip else 0):
                    self.wfile.write(b" ")
                    time.sleep(0.1)
                self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    seen.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def completion(text: str | None, *, finish_reason: str = "stop", tokens: int | None = 3, delay: float = 0) -> Answered:
    """A well-formed chat completion."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": text}}
    usage = {"usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": 4}} if tokens else {}
    head = {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny"}
    return Answered(body=json.dumps({**head, "choices": [choice], **usage}), delay=delay)


def error(status: int, message: str, **headers: str) -> Answered:
    """An error as these endpoints word it."""
    return Answered(status, json.dumps({"error": {"message": message, "type": "error"}}), headers=headers)


def last_user_text(request: dict[str, Any]) -> str:
    """What the last user turn says."""
    return str([message["content"] for message in request["messages"] if message["role"] == "user"][-1])
