"""A stand-in for the hub on loopback: what huggingface_hub asks of it to make a repository and fill it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml


class Hub:
    """What was sent to it.

    Attributes:
        url: Its address.
        repositories: By OWNER/NAME: its visibility.
        files: By OWNER/NAME: bytes by path.
        tokens: The tokens that were shown.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, str] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.tokens: set[str | None] = set()
        self.large: dict[str, bytes] = {}

    def answer(self, method: str, path: str, data: bytes) -> dict[str, Any]:
        """The answer to one request."""
        if method == "PUT":
            assert hashlib.sha256(data).hexdigest() == path.removeprefix("/large/")
            self.large[path.removeprefix("/large/")] = data
            return {}
        if path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            self.repositories.setdefault(name, asked["visibility"])
            return {"url": f"{self.url}/datasets/{name}"}
        if path == "/api/validate-yaml":
            front = json.loads(data)["content"].split("---\n")[1]
            assert yaml.safe_load(front)["configs"]
            return {"errors": [], "warnings": []}
        name = "/".join(path.removeprefix("/api").removeprefix("/datasets/").split("/")[:2]).removesuffix(
            ".git"
        )
        assert name in self.repositories
        if "/preupload/" in path:
            files = json.loads(data)["files"]
            return {"files": [self._mode(file["path"]) for file in files]}
        if path.endswith("/objects/batch"):
            objects = json.loads(data)["objects"]
            return {"transfer": "basic", "objects": [self._upload(one) for one in objects]}
        assert path.endswith("/commit/main")
        committed = self.files.setdefault(name, {})
        for line in data.splitlines():
            said = json.loads(line)
            value = said["value"]
            if said["key"] == "file":
                committed[value["path"]] = base64.b64decode(value["content"])
            elif said["key"] == "lfsFile":
                committed[value["path"]] = self.large[value["oid"]]
        return {"commitUrl": f"{self.url}/datasets/{name}/commit/1", "commitOid": "1"}

    def _mode(self, path: str) -> dict[str, Any]:
        is_large = path.endswith((".parquet", ".safetensors"))
        return {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}

    def _upload(self, one: dict[str, Any]) -> dict[str, Any]:
        return one | {"actions": {"upload": {"href": f"{self.url}/large/{one['oid']}"}}}


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Start it; gives what it is sent."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hub.tokens.add(self.headers.get("authorization"))
            self.reply()

        def do_PUT(self) -> None:
            self.reply()

        def reply(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length", 0))) or self.chunks()
            answer = json.dumps(hub.answer(self.command, self.path.partition("?")[0], data)).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def chunks(self) -> bytes:
            parts = []
            if self.headers.get("transfer-encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
            return b"".join(parts)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
