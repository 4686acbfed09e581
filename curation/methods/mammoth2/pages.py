"""Turns archives of web pages into rows. The pool has a row for each archive; the stage `read` replaces it by a row for
each page.

    pool:   {web: {_target_: curation.methods.mammoth2.pages.archives, paths: ["s3://bucket/warc/*.warc.gz"]}}
    stages: {pages: {_target_: curation.methods.mammoth2.pages.read, seconds: 5, ...}}

In the row of a page, the prompt is the page's text; `notes.page` is its origin (url, domain, hash of the fetched bytes,
date, robots, licence, archive and record); and `notes.stated` holds the question-answer pairs that its markup states.
Each page is parsed in a subprocess with CPU and memory limits. If it exceeds them, the subprocess is killed and the
page is dropped with the reason.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

from pydantic import PositiveFloat, PositiveInt

from curation.methods.mammoth2.archives import PageColumns, Raw, find_archives, read_archive
from curation.parallel import in_turn
from curation.stage import stage
from limo.data import Dropped, Example, Row, chat
from limo.errors import UserError, need_package
from limo.machine import count_cores
from limo.processes import Died, TimedOut, Workers
from limo.recipe import InputPaths
from limo.sources import take_fraction

AHEAD = 16  # pages for each process that wait for it

Parsed = dict[str, Any]  # a parsed page


def archives(
    name: str, system: str, /, *, paths: InputPaths, install: str = "", fraction: float = 1.0, licence: str = ""
) -> Iterator[Row]:
    """A row for each archive of `paths`: files, folders, patterns, or addresses that fsspec knows.

    Args: `install` is advice for the error if there are no archives; `fraction` and `licence` as in
    `limo.sources.take_fraction`. Raises UserError if a path holds no archive, or cannot be listed.
    """
    need_package("fastwarc", "web", f"pool source '{name}'")
    try:
        listed = [path for pattern in paths for path in find_archives(pattern)]
    except UserError as error:
        raise UserError(f"pool source '{name}': {error}" + (f". {install}" if install else "")) from None
    shared = len(os.path.commonprefix(listed).rpartition("/")[0])  # noqa: RUF071 - ids are the same on every machine
    rows = (Example(f"{name}{path[shared:]}", chat(path, system), "", source=name) for path in dict.fromkeys(listed))
    yield from take_fraction(rows, name, fraction, licence)


@stage("pool")
def read(
    rows: Iterable[Example],
    /,
    *,
    columns: PageColumns | None,
    max_bytes: PositiveInt,
    seconds: PositiveFloat,
    memory: PositiveInt,
    deny: list[str],
    robots: list[str],
) -> Iterator[Row]:
    """The pages of archives: text that keeps mathematics, with the pairs that the markup states.

    Args: `columns` of Parquet and JSONL, null for other archives; `max_bytes` of a page, compressed or not;
    `seconds` of processor time and `memory` in MB that one page may take; `deny` domains that are not read, including
    their subdomains; `robots` directives, such as noai, with which a page is dropped (header and meta element).
    """
    denied = tuple("." + domain.lower().removeprefix("www.") for domain in deny)
    limits = (max_bytes, float(seconds), memory * 2**20)
    make_row = partial(_read_page, workers=_workers(), limits=limits, robots=frozenset(robots))
    found = _list_pages(rows, columns, max_bytes, denied)
    with ThreadPoolExecutor(count_cores()) as pool:
        yield from in_turn(partial(pool.submit, make_row), found, AHEAD * count_cores())


@cache
def _workers() -> Workers:
    """The processes that parse pages for this process."""
    return Workers("curation.methods.mammoth2.pageworker", limit=count_cores())


Found = tuple[Example, Raw] | Dropped  # a page with its archive's row


def _list_pages(
    rows: Iterable[Example], columns: PageColumns | None, most: int, denied: tuple[str, ...]
) -> Iterator[Found]:
    for row in rows:
        for raw in read_archive(row.question, columns, most):
            if isinstance(raw, Dropped):
                yield replace(raw, id=f"{row.id}/{raw.row}" if raw.row else row.id)
            elif f".{domain_of(raw.url)}".endswith(denied):
                where = (row.question, raw.number, _origin(raw))
                yield Dropped(f"{row.id}/{raw.number}", "", "domain not wanted", domain_of(raw.url), *where)
            else:
                yield row, raw


def domain_of(url: str) -> str:
    """The host of a url without www, or the folder of a file; used for statistics.

    >>> domain_of("https://www.Example.org:80/a/b?c"), domain_of("file:///usr/share/doc/a/b.html"), domain_of("x")
    ('example.org', '/usr/share/doc/a', '')
    """
    try:
        parts = urlsplit(url)
        if parts.scheme == "file":
            return parts.path.rpartition("/")[0]
        return (parts.hostname or "").removeprefix("www.")
    except ValueError:
        return ""


def _origin(raw: Raw) -> dict[str, Any]:
    url = raw.url[:2000].encode("utf-8", "replace").decode()  # a lone surrogate cannot be printed
    return {"url": url, "domain": domain_of(url)}


def _read_page(found: Found, workers: Workers, limits: tuple[int, float, int], robots: frozenset[str]) -> Row:
    """Parse a page in a subprocess. Returns it as a row, or a Dropped with the reason."""
    if isinstance(found, Dropped):
        return found
    archive, raw = found
    parsed = _parse(raw, workers, *limits)
    key, where = f"{archive.id}/{raw.number}", (archive.question, raw.number)
    if "reason" in parsed:
        return Dropped(key, "", parsed["reason"], parsed["detail"], *where, _origin(raw))
    said = ", ".join(filter(None, (raw.robots, parsed["robots"])))
    body = raw.body if isinstance(raw.body, bytes) else raw.body.encode("utf-8", "replace")
    page = {
        **_origin(raw),
        "hash": hashlib.sha256(body).hexdigest(),
        "title": parsed["title"],
        "date": raw.date,
        "robots": said,
        "licence": parsed["licence"] or archive.notes.get("licence", ""),
        "archive": archive.question,
        "record": raw.number,
        "formulas": parsed["formulas"],
    }
    if forbidden := robots & set(re.split(r"[\s,:]+", said)):
        return Dropped(key, "", "robots", ", ".join(sorted(forbidden)), *where, page)
    system = next((m["content"] for m in archive.prompt if m["role"] == "system"), "")
    licence = {"licence": page["licence"]} if page["licence"] else {}
    notes = {"page": page, "stated": parsed["pairs"], **licence}
    return Example(key, chat(parsed["text"], system), "", source=archive.source, notes=notes)


def _parse(page: Raw, workers: Workers, most: int, seconds: float, memory: int) -> Parsed:
    try:
        parsed: Parsed = workers.ask([memory, [page.body, page.kind, page.packed, page.charset, most]], seconds)
        return parsed
    except TimedOut:
        return {"reason": "takes too long", "detail": f"more than pages.seconds={seconds:g} of processor time"}
    except Died:
        detail = f"more than pages.memory={memory // 2**20} MB, or its parser died"
        return {"reason": "takes too much memory", "detail": detail}


def page_of(row: Example) -> dict[str, Any]:
    """The origin of a page. Raises UserError for a row that is not a page."""
    if "page" not in row.notes:
        raise UserError(f"row {row.id} is not a page: put curation.methods.mammoth2.pages.read before this stage")
    return dict(row.notes["page"])


def first_words(text: str, count: int) -> str:
    """The first words of a text, for people and prompts.

    >>> first_words("one two  three", 2)
    'one two'
    """
    return " ".join(islice((found.group() for found in re.finditer(r"\S+", text)), count))
