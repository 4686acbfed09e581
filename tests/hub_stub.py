"""A small Hub on this machine: the endpoints that huggingface_hub calls for an upload, and the files as they came."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

KEY = "hf_" + "x" * 34
LICENCES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "other"}
LARGE = (".safetensors", ".parquet", ".png")  # what this Hub wants by LFS


class Hub(ThreadingHTTPServer):
    """What was uploaded: files by repository and path, large ones by hash until a commit names them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.objects: dict[str, bytes] = {}
        self.commits = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def _json(self, value: Any, code: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_POST(self) -> None:
        body, hub = self._body(), self.server
        if self.path == "/api/validate-yaml":  # asked without a key, before a commit that has a card
            self._json({"errors": problems(json.loads(body)["content"]), "warnings": []})
        elif self.headers.get("Authorization") != f"Bearer {KEY}":
            self._json({"error": "Invalid credentials in Authorization header"}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            hub.created.append(asked)
            kind = asked.get("type", "model")
            name = f"{asked.get('organization')}/{asked['name']}"
            hub.files.setdefault(f"{kind}s/{name}", {})
            self._json({"url": f"{hub.url}/{'' if kind == 'model' else kind + 's/'}{name}", "name": name})
        elif self.path.endswith("/info/lfs/objects/batch"):
            wanted = [
                {
                    **o,
                    **(
                        {}
                        if o["oid"] in hub.objects
                        else {"actions": {"upload": {"href": f"{hub.url}/lfs/{o['oid']}"}}}
                    ),
                }
                for o in json.loads(body)["objects"]
            ]
            self._json({"transfer": "basic", "objects": wanted})
        elif found := re.fullmatch(r"/api/(\w+/[^/]+/[^/]+)/(preupload|commit)/main(\?.*)?", self.path):
            name, step, _ = found.groups()
            self._json(self._modes(body) if step == "preupload" else self._commit(name, body))
        else:
            self._json({"error": f"no {self.path}"}, 404)

    def _modes(self, body: bytes) -> dict[str, Any]:
        return {
            "files": [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for f in json.loads(body)["files"]
            ]
        }

    def _commit(self, name: str, body: bytes) -> dict[str, Any]:
        hub = self.server
        hub.commits += 1
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                hub.files[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                hub.files[name][value["path"]] = hub.objects[value["oid"]]
        return {"commitUrl": f"{hub.url}/{name}/commit/{hub.commits}", "commitOid": f"{hub.commits:040x}"}

    def do_PUT(self) -> None:
        body = self._body()
        digest = hashlib.sha256(body).hexdigest()
        right = self.path == f"/lfs/{digest}"
        if right:
            self.server.objects[digest] = body
        self._json({}, 200 if right else 400)

    def do_GET(self) -> None:
        self._json({"error": "no such thing"}, 404)


def problems(card: str) -> list[dict[str, str]]:
    """What the Hub would refuse of a card's metadata, as far as it is written down in its documentation."""
    head = yaml.safe_load(card.split("---\n")[1])
    known = {"license": LICENCES, "pipeline_tag": {"text-generation"}, "library_name": {"transformers", "peft"}}
    found = [f"{key}: {head[key]}" for key, values in known.items() if key in head and head[key] not in values]
    found += [f"base_model: {head['base_model']}"] if head.get("base_model", "a/b").count("/") != 1 else []
    return [{"message": text} for text in found]


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub that runs while the block does."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        yield hub
        hub.shutdown()
