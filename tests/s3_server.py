"""A real S3 server on loopback (moto's), and a gateway before it that can be told to fail."""

from __future__ import annotations

import http.client
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "zoos"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def s3_server() -> Iterator[int]:
    """Start the server with an empty bucket; gives its port."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                send(port, "PUT", f"/{BUCKET}")
                break
            except OSError:
                assert process.poll() is None
                assert time.monotonic() < until, "the S3 server did not come up within 60 s"
                time.sleep(0.1)
        yield port
    finally:
        process.kill()
        process.wait()


def send(port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    authorization = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request"
    connection.request(method, path, headers={"Authorization": authorization})
    return connection.getresponse().status


class Gateway(ThreadingHTTPServer):
    """Passes requests on to a server, but for those that it is told to spoil.

    Attributes:
        share: Share of the PUT and POST requests that fail.
        how: "error" answers 500 and does nothing; "late" does it, and answers 500 all the same; "silent" is silent.
        seen: Requests by method, and those spoilt.
    """

    daemon_threads = True

    def __init__(self, server: int, share: float = 0.0, how: str = "error") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server, self.share, self.how = server, share, how
        self.seen: Counter[str] = Counter()
        self.random, self.turn = random.Random(0), threading.Lock()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def spoils(self, method: str) -> bool:
        with self.turn:
            self.seen[method] += 1
            spoilt = method in ("PUT", "POST") and self.random.random() < self.share
            self.seen["spoilt"] += spoilt
            return spoilt


@contextmanager
def gateway(server: int, share: float = 0.0, how: str = "error") -> Iterator[Gateway]:
    """Start a gateway before the server at a port."""
    with Gateway(server, share, how) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            found.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def _pass_on(self) -> None:
        body = self._body()
        spoilt = self.server.spoils(self.command)
        if spoilt and self.server.how == "silent":
            time.sleep(5)
            self.close_connection = True
            return
        if not spoilt or self.server.how == "late":
            connection = http.client.HTTPConnection("127.0.0.1", self.server.server, timeout=60)
            connection.request(self.command, self.path, body, dict(self.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
        if spoilt:
            self.send_response(500)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length or "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Expect") == "100-continue":
            self.send_response_only(100)
            self.end_headers()
            del self.headers["Expect"]
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        del self.headers["Transfer-Encoding"]
        body = b"".join(parts)
        self.headers["Content-Length"] = str(len(body))
        return body

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        """Say nothing."""
