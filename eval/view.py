"""Look at runs in a browser: every row, chosen or dropped, and every answer, with filters.

    limo view runs/demo
    limo view runs/first runs/second          # beside each other
    limo view runs/demo bundle=public         # a static copy for a web server

A small server on this machine's loopback address reads rows from the runs' files when they are opened, so any number of
long chains can be listed. A run that goes on is shown as far as it is. On a machine without a browser forward the port:
ssh -L 8600:localhost:8600 machine. `port` and `open` say where it listens and whether a browser is opened.
"""

import json
import re
import threading
import webbrowser
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from markupsafe import Markup

from eval.report.html import render
from eval.report.listed import Listed, list_runs
from eval.report.page import conclusions, hash_script, run_facts
from eval.report.viewer import Packer, pack, scripts, style
from limo.command import run_function
from limo.console import say
from limo.data import replacing
from limo.errors import UserError

HOST = "127.0.0.1"
FOUND = 5_000  # rows that a search in the texts returns


def view(runs: list[str], port: int = 8600, bundle: str = "", open: bool = True) -> None:
    """Serve these runs until Ctrl-C, or write a static copy of them into the folder `bundle`.

    A folder that holds runs stands for all of them. Raises UserError if there is no run, or the port is taken.
    """
    folders = find_runs(runs)
    if bundle:
        write_bundle(folders, Path(bundle))
        say(f"{bundle}: put it on any web server, or look at it with: python -m http.server --directory {bundle}")
        return
    try:
        server = serve(folders, port)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "ports go from 0 to 65535"
        raise UserError(f"port {port} cannot be used: {why}. Choose another one, such as port=8601") from None
    address = f"http://localhost:{server.server_address[1]}/"
    say(f"{address} shows {', '.join(folder.name for folder in folders)}. Ctrl-C ends it")
    if open:
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


def find_runs(paths: Sequence[str]) -> list[Path]:
    """The runs of these folders, or inside of them. Raises UserError for a folder without one."""
    found = []
    for path in map(Path, paths or ["runs"]):
        inside = [path] if _is_run(path) else [each for each in sorted(path.glob("*")) if _is_run(each)]
        if not inside:
            raise UserError(f"there is no run in '{path}'. limo curate recipe=demo makes one in runs/demo")
        found += inside
    return list(dict.fromkeys(folder.resolve() for folder in found))


def _is_run(path: Path) -> bool:
    return any((path / name).exists() for name in ("manifest.json", "stages", "curated.jsonl"))


class Desk:
    """The runs that are shown, read again when their files have changed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self._lock = threading.Lock()
        self._state, self._listed = "", Listed()

    def state(self) -> str:
        """Changes when the runs' files do."""
        patterns = ("*.jsonl", "manifest.json", "stages/*.jsonl", "eval/*.json", "eval/*/*.jsonl")
        files = sorted(file for folder in self.folders for pattern in patterns for file in folder.glob(pattern))
        stats = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
        return f"{hash(tuple(stats)):x}"

    def listed(self, fresh: bool = False) -> Listed:
        """The rows; `fresh` looks whether there are others since."""
        with self._lock:
            if not self._state or (fresh and self.state() != self._state):
                self._state = self.state()
                self._listed = list_runs(self.folders)
            return self._listed

    def index(self) -> dict[str, Any]:
        """The list of all rows, with the main numbers of each run."""
        runs = [
            {"name": folder.name, "facts": run_facts(folder), "said": conclusions(folder)} for folder in self.folders
        ]
        return {**self.listed(fresh=True).index(), "runs": runs}

    def search(self, wanted: str) -> list[int]:
        """Numbers of the rows whose texts hold `wanted`, in any case; FOUND at most."""
        listed, found = self.listed(), list[int]()
        inside = json.dumps(wanted, ensure_ascii=False)[1:-1].lower().encode()
        for number, place in enumerate(listed.places):
            if len(found) == FOUND:
                break
            if inside in place.line().lower() and wanted in (listed.details(number)["text"] or "").lower():
                found.append(number)
        return found


def make_page(folders: Sequence[Path], rows: str) -> str:
    """The page, which reads its rows from a `server` or from `files` beside it."""
    ours = scripts(with_viewer=True)
    return render(
        "desk.html",
        name=", ".join(folder.name for folder in folders[:3]) + (" …" if len(folders) > 3 else ""),
        rows=rows,
        scripts=[Markup(script) for script in ours],
        hashes=Markup(" ".join(map(hash_script, ours))),
        style=Markup(style()),
    )


def serve(folders: Sequence[Path], port: int) -> ThreadingHTTPServer:
    """A server on the loopback address; port 0 takes any free one."""
    desk = Desk(folders)
    page = make_page(folders, "server")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not re.fullmatch(r"(localhost|127\.0\.0\.1)(:\d+)?", self.headers.get("Host", "")):
                return self.send_error(HTTPStatus.FORBIDDEN, "only localhost is served")  # another site's name for us
            url = urlsplit(self.path)
            number = url.path.removeprefix("/row/")
            if url.path == "/":
                return self._send(page, "text/html")
            if url.path == "/state":
                return self._send(desk.state(), "text/plain")
            if url.path == "/index":
                return self._send(desk.index())
            if url.path == "/search":
                return self._send(desk.search(parse_qs(url.query).get("q", [""])[0].lower()))
            if number.isdecimal() and int(number) < len(desk.listed().places):
                return self._send(desk.listed().details(int(number)))
            return self.send_error(HTTPStatus.NOT_FOUND)

        def _send(self, value: Any, kind: str = "application/json") -> None:
            body = (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "replace")
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing for each request."""

    return ThreadingHTTPServer((HOST, port), Handler)


def write_bundle(folders: Sequence[Path], out: Path) -> None:
    """The page, its list and its rows as files, for a web server that knows nothing of runs."""
    if out.is_dir() and any(out.iterdir()) and not (out / "blocks").is_dir():
        raise UserError(f"bundle: '{out}' holds other files: name a new folder")
    desk = Desk(folders)
    listed, packer, written = desk.listed(), Packer(), 0
    (out / "blocks").mkdir(parents=True, exist_ok=True)
    for number, entry in enumerate(listed.entries):
        entry["block"] = packer.add(listed.details(number))
        if number == len(listed.entries) - 1:
            packer.close()
        while written < len(packer.blocks):  # and out of memory
            (out / "blocks" / str(written)).write_text(packer.blocks[written], encoding="utf-8")
            packer.blocks[written] = ""
            written += 1
    for name, text in (("index", pack(desk.index())), ("index.html", make_page(folders, "files"))):
        with replacing(out / name) as file:
            file.write(text)


if __name__ == "__main__":
    run_function(view, "limo view", __doc__)
