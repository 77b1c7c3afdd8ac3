"""A server on loopback with one scripted answer, for answers that no loopback server gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from pytest_glasshouse.providers.base import Launch, Offer, Provider

#: Deeper than Python's own parser goes, with an id beside it.
DEEP = b'{"id": "a", "success": true, "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


LAUNCH = Launch(name="glasshouse-answers-1-1", image="example/guest:1", start=("true",))


class OneAnswer:
    """A server on loopback whose only answer can be set; what stands in `script` comes before it, one after the other."""

    def __init__(self) -> None:
        self.status, self.body, self.headers = 200, b"{}", {"Content-Type": "application/json"}
        self.script: list[Any] = []
        #: Method and target of every request.
        self.asked: list[tuple[str, str]] = []
        answers = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class names it so)
                del format, args

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                answers.asked.append((self.command, self.path))
                body = json.dumps(answers.script.pop(0)).encode() if answers.script else answers.body
                # Without a date of its own: a test sets it.
                self.send_response_only(answers.status)
                for name, value in answers.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = answer  # noqa: N815  (the names of http.server)

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def answer_with(self, status: int, value: Any, **headers: str) -> None:
        self.status, self.body = status, value if isinstance(value, bytes) else json.dumps(value).encode()
        self.headers = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class OtherServer(OneAnswer):
    """Another server, which must get no request."""

    def __enter__(self) -> Self:
        self.where = self.url.removeprefix("http://")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def create(provider: Provider) -> Callable[[], object]:
    offer = Offer(provider=provider.name, gpu_model="NVIDIA RTX A4000", price_usd_per_hour=0.2, offer_id="1002")
    return lambda: provider.create(offer, launch=LAUNCH)
