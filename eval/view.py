"""Look at runs in a browser: every row, chosen or dropped, and every answer, with filters.

    limo view runs/demo
    limo view runs/first runs/second          # side by side
    limo view runs/demo bundle=public         # a static copy for a web server

A small server on this machine's loopback address reads rows from the runs' files when they are opened, so any number of
long chains can be listed. A run in progress is shown as far as it has come. A request needs the token of the printed
address, since other users of this machine can reach the port. On a machine without a browser forward the port:
ssh -L 8600:localhost:8600 machine. `port` is the port, `open` says whether to open a browser.
"""

import hashlib
import json
import re
import secrets
import tempfile
import threading
import webbrowser
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from markupsafe import Markup

from eval.report.html import fill_template
from eval.report.listed import BAD, Listed, Place, list_runs
from eval.report.page import conclusions, hash_script, run_facts
from eval.report.viewer import Packer, pack, scripts, style
from limo.command import run_function
from limo.console import say
from limo.data import content_id, replacing
from limo.errors import UserError

HOST = "127.0.0.1"
FOUND = 5_000  # most rows that a search in the texts returns
WRITTEN = "written.json"  # the digests of a static copy's files


def view(runs: list[str], port: int = 8600, bundle: str = "", open: bool = True) -> None:
    """Serve these runs until Ctrl-C, or write a static copy of them into the folder `bundle`.

    A folder that holds runs stands for all of them. Raises UserError if there is no run, or the port is taken.
    """
    folders = find_runs(runs)
    if bundle:
        write_bundle(folders, Path(bundle))
        say(f"{bundle}: put it on any web server, or look at it with: python -m http.server --directory {bundle}")
        return
    token = secrets.token_urlsafe(24)
    try:
        server = start_server(folders, port, token)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or "ports go from 0 to 65535"
        raise UserError(f"port {port} cannot be used: {why}. Choose another one, such as port=8601") from None
    address = f"http://localhost:{server.server_address[1]}/?token={token}"
    say(f"{address} shows {', '.join(folder.name for folder in folders)}. Ctrl-C ends it")
    with _opened(address if open else ""):
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            server.server_close()


@contextmanager
def _opened(address: str) -> Iterator[None]:
    """Open a browser through a file that only this user can read, since others can see command lines of processes."""
    if not address:
        yield
        return
    with tempfile.NamedTemporaryFile("w", suffix=".html", prefix="limo-view-") as page:
        page.write(f'<meta http-equiv="refresh" content="0;url={address}">')
        page.flush()
        threading.Thread(target=webbrowser.open, args=(Path(page.name).as_uri(),), daemon=True).start()
        yield


def find_runs(paths: Sequence[str]) -> list[Path]:
    """The runs in these folders: a folder itself, or those inside it. Raises UserError for a folder without a run."""
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
        self._numbers = dict[str, int]()  # of rows by their keys

    def state(self) -> str:
        """A text that changes when the runs' files change."""
        patterns = ("*.jsonl", "manifest.json", "stages/*.jsonl", "eval/*.json", "eval/*/*.jsonl")
        files = sorted(file for folder in self.folders for pattern in patterns for file in folder.glob(pattern))
        stats = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
        return f"{hash(tuple(stats)):x}"

    def listed(self, fresh: bool = False) -> Listed:
        """The rows; `fresh` checks whether files have changed since."""
        with self._lock:
            if not self._state or (fresh and self.state() != self._state):
                self._state = self.state()
                self._listed = list_runs(self.folders)
                self._numbers = {_key(place): number for number, place in enumerate(self._listed.places)}
            return self._listed

    def details(self, key: str) -> dict[str, Any] | None:
        """What is shown of a row, given its key; None if there is no such row."""
        listed = self.listed()
        with self._lock:
            number = self._numbers.get(key)
        return None if number is None else listed.details(number)

    def index(self) -> dict[str, Any]:
        """The list of all rows, with the main numbers of each run."""
        listed = self.listed(fresh=True)
        rows = [{**row, "key": _key(place)} for row, place in zip(listed.entries, listed.places, strict=True)]
        return {**listed.index(), "rows": rows, "runs": list(map(_about, self.folders))}

    def search(self, wanted: str) -> list[str]:
        """Keys of at most FOUND rows whose texts hold `wanted`, in upper or lower case."""
        listed, found = self.listed(fresh=True), list[str]()
        inside = json.dumps(wanted, ensure_ascii=False)[1:-1].lower().encode("utf-8", "replace")
        for number, place in enumerate(listed.places):
            if len(found) == FOUND:
                break
            if inside in place.line().lower() and wanted in (listed.details(number)["text"] or "").lower():
                found.append(_key(place))
        return found


def _key(place: Place) -> str:
    """The key of a row in the page. It stays the same when the file is rewritten."""
    return content_id([str(place.path), place.id, place.completion, place.nth])


def _about(folder: Path) -> dict[str, Any]:
    """The main numbers of a run, or the reason why they cannot be read."""
    try:
        return {"name": folder.name, "facts": run_facts(folder), "said": conclusions(folder)}
    except (UserError, *BAD) as error:
        return {"name": folder.name, "facts": [], "said": [f"its results cannot be read: {error}"]}


def make_page(folders: Sequence[Path], rows: str) -> str:
    """The HTML page. It reads its rows from a `server`, or from `files` beside it."""
    ours = scripts(with_viewer=True)
    return fill_template(
        "desk.html",
        name=", ".join(folder.name for folder in folders[:3]) + (" …" if len(folders) > 3 else ""),
        rows=rows,
        scripts=[Markup(script) for script in ours],
        hashes=Markup(" ".join(map(hash_script, ours))),
        style=Markup(style()),
    )


class Server(ThreadingHTTPServer):
    """A server that prints nothing when a browser disconnects during a response."""

    def handle_error(self, *_: Any) -> None:
        """Print nothing if a browser has disconnected; see the class."""


def start_server(folders: Sequence[Path], port: int, token: str) -> Server:
    """A server on the loopback address; port 0 takes a free one. Requests have the token in the address or a header."""
    desk = Desk(folders)
    page = make_page(folders, "server")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            asked = parse_qs(url.query)
            given = self.headers.get("Authorization", "").removeprefix("token ") or asked.get("token", [""])[0]
            if not re.fullmatch(r"(localhost|127\.0\.0\.1)(:\d+)?", self.headers.get("Host", "")):
                return self._send("only localhost is served", status=HTTPStatus.FORBIDDEN)  # another site's name for us
            if not secrets.compare_digest(given.encode("utf-8", "replace"), token.encode()):
                return self._send(
                    "open the address that limo view has printed, with its token", status=HTTPStatus.FORBIDDEN
                )
            try:
                return self._answer(url.path, asked.get("q", [""])[0].lower())
            except (UserError, OSError, *BAD) as error:
                return self._send(" ".join(str(error).split()), status=HTTPStatus.INTERNAL_SERVER_ERROR)

        def _answer(self, path: str, wanted: str) -> None:
            if path == "/":
                return self._send(page, "text/html")
            if path == "/state":
                return self._send(desk.state())
            if path == "/index":
                return self._send(desk.index(), "application/json")
            if path == "/search":
                return self._send(desk.search(wanted), "application/json")
            if path.startswith("/row/") and (details := desk.details(path.removeprefix("/row/"))):
                return self._send(details, "application/json")
            return self._send("there is no such row: read the page again", status=HTTPStatus.NOT_FOUND)

        def _send(self, value: Any, kind: str = "text/plain", status: HTTPStatus = HTTPStatus.OK) -> None:
            body = (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "replace")
            self.send_response(status)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing for a request."""

    return Server((HOST, port), Handler)


def write_bundle(folders: Sequence[Path], out: Path) -> None:
    """Write the page, its list and its rows as files, for any static web server.

    `WRITTEN` lists them by their digests. Raises UserError if the folder holds files that are not of an earlier copy.
    """
    copy = _Copy(out)
    desk = Desk(folders)
    listed, packer, written = desk.listed(), Packer(), 0
    for number, entry in enumerate(listed.entries):
        entry["block"] = packer.add(listed.details(number))
        if number == len(listed.entries) - 1:
            packer.close()
        while written < len(packer.blocks):  # write each block at once, and free its memory
            copy.write(f"blocks/{written}", packer.blocks[written])
            packer.blocks[written] = ""
            written += 1
    copy.write("index", pack({**listed.index(), "runs": list(map(_about, folders))}))
    copy.write("index.html", make_page(folders, "files"))
    copy.remove_others()


class _Copy:
    """A static copy's folder. Only files of an earlier copy are overwritten or removed."""

    def __init__(self, out: Path) -> None:
        self.out, self.done = out, dict[str, list[str]]()
        try:
            known = json.loads((out / WRITTEN).read_text(encoding="utf-8")) if (out / WRITTEN).is_file() else {}
            self.before = {str(name): list(map(str, digests)) for name, digests in known.items()}
        except BAD:
            self.before = {}
        for path in sorted(out.rglob("*")):
            name = path.relative_to(out).as_posix()
            ours = name in self.before and path.is_file() and _digest(path.read_bytes()) in self.before[name]
            if name != WRITTEN and not ours and (path.is_symlink() or not path.is_dir()):
                raise UserError(f"bundle: '{out}' holds other files, such as {name}: name a new folder")

    def write(self, name: str, text: str) -> None:
        """Write a file. Its digest is added to the list first, and the digest of the file that it replaces stays there,
        so that a killed copy can be repeated.
        """
        self.done[name] = [_digest(text.encode("utf-8"))]
        with replacing(self.out / WRITTEN) as file:
            json.dump(self.done | {n: [*digests, *self.done.get(n, [])] for n, digests in self.before.items()}, file)
        with replacing(self.out / name) as file:
            file.write(text)

    def remove_others(self) -> None:
        """Remove files that only the earlier copy had."""
        for name in self.before.keys() - self.done.keys():
            (self.out / name).unlink(missing_ok=True)
        with replacing(self.out / WRITTEN) as file:
            json.dump(self.done, file)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    run_function(view, "limo view", __doc__)
