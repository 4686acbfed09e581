"""The process that parses pages, one at a time: from bytes to a text that keeps formulas, and the question-answer pairs
that the markup states. The caller kills it if a page takes too long.

    worker = Workers("curation.methods.mammoth2.pageworker", limit=2)
    parsed = worker.ask([memory, page], seconds)    # arguments and result of `read_page`

The time per page is limited by the caller (`limo/processes.py`), the memory by this process (RLIMIT_AS): 50 MB of
nested elements would take minutes and gigabytes. The parser and the extractor are Resiliparse's, which is maintained
and written in Rust; formulas (`formulas.py`) and questions (`markup.py`) are written into its tree before extraction.
Its main-content heuristics sometimes drop lists and boxes. So the inserted formulas and answers are counted after
extraction, and if one is lost the page is extracted again without these heuristics, leaving out only navigation.
"""

import contextlib
import gzip
import re
import zlib
from typing import Any

from curation.methods.mammoth2 import formulas, markup
from limo.processes import serve_questions

ASIDE = (
    "nav footer aside form button .navheader .navfooter .sphinxsidebar .related .breadcrumbs [role=navigation] "
    ".sidebar .menu .cookie .advertisement"
).split()
WHOLE = re.compile(r"\ue011|\ue000[scd]aend\d+\ue001")  # formulas and answers that were extracted completely
WRITTEN = re.compile(r"\\[(\[]|\$[^$\n<>]{1,300}\$|\\begin\{(?:equation|align|gather|eqnarray)")  # a page's own text
BROKEN = 0.02  # a page with more than this share of undecodable characters has an unknown encoding
BINARY = re.compile(
    rb"%PDF-|PK\x03\x04|\x89PNG|GIF8|\xff\xd8\xff|\x1f\x8b|\x7fELF|Rar!|OggS|ID3|\x00\x00\x00.ftyp", re.DOTALL
)

FOREIGN = re.compile("[\0\ue000-\ue0ff\ud800-\udfff]")  # our marks, and characters that a text must not hold

Parsed = dict[str, Any]  # text, title, robots, licence, formulas, pairs; or reason and detail


def read_page(body: bytes | str, kind: str, packed: str, charset: str, most: int) -> Parsed:
    """Parse one page.

    Args: `kind` html or text; `packed` the HTTP Content-Encoding and `charset` the header's charset, each empty if
    missing; `most` unpacked bytes. Returns the page, or `reason` and `detail` of why it is dropped.
    """
    if isinstance(body, bytes):
        data = _unpack(body, packed, most)
        text = _decode(data, charset) if isinstance(data, bytes) else data
        if not isinstance(text, str):
            return text
        body = text
    elif len(body) > most:
        return {"reason": "page too long", "detail": f"{len(body):,} characters; the limit is max_bytes={most:,}"}
    body = FOREIGN.sub("\ufffd", body)
    if kind == "text":  # such as WET's
        text, pairs = markup.unmarked(body)
        return _page(text, "", "", "", 0, pairs)
    return _html(markup.REFERENCE.sub("\ufffd", body))


def _unpack(body: bytes, packed: str, most: int) -> bytes | Parsed:
    """Unpack at most `most` bytes, so that a decompression bomb does no harm."""
    packed = packed.strip().lower()
    if packed in ("gzip", "x-gzip", "deflate") or body[:3] == b"\x1f\x8b\x08":
        raw = packed == "deflate" and (body[:1] != b"\x78")
        unpack = zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS | 32)
        try:
            body = unpack.decompress(body, most + 1)
        except (zlib.error, gzip.BadGzipFile) as error:
            return {"reason": "broken compression", "detail": str(error)}
        if not unpack.eof and len(body) <= most:
            return {"reason": "broken compression", "detail": f"it ends after {len(body):,} bytes"}
    elif packed not in ("", "identity"):
        if body[:1] in b"<\n \t\r" or body[:3] == b"\xef\xbb\xbf":  # crawls keep the header after unpacking a body
            return body
        return {"reason": "unknown compression", "detail": packed[:40]}
    if len(body) > most:
        return {"reason": "page too long", "detail": f"more than max_bytes={most:,} bytes when unpacked"}
    return body


def _decode(body: bytes, charset: str) -> str | Parsed:
    """Decode the bytes with the encoding that the header or the page declares, or else a detected one."""
    wide = body[:2] in (b"\xff\xfe", b"\xfe\xff")
    if BINARY.match(body[:16]) or (body[:4096].count(b"\0") > len(body[:4096]) // 10 + 1 and not wide):
        return {"reason": "not a page", "detail": f"its bytes begin {body[:8]!r}"}
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

    best, share = "", 1.0
    stated = re.search(rb"charset\s*=\s*[\"']?([\w-]{3,20})", body[:2048])
    guesses = ["utf-8", charset, stated[1].decode("ascii", "replace") if stated else ""]
    for guess in [*filter(None, guesses), detect_encoding(body, max_len=65536) or "utf-8"]:
        try:
            text = bytes_to_str(body, str(map_encoding_to_html5(guess)), errors="replace", fallback_encodings=())
        except (LookupError, ValueError):
            continue
        lost = (text.count("\ufffd") + len(re.findall("[\x80-\x9f]", text[:200_000]))) / max(len(text), 1)
        if lost < share:
            best, share = text, lost
        if share == 0:
            break
    if share > BROKEN:
        return {"reason": "broken encoding", "detail": f"{100 * min(share, 1):.0f} % of it cannot be decoded"}
    return best.removeprefix("\ufeff")


def _html(html: str) -> Parsed:
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    if tree.body is None:
        return {"reason": "no text", "detail": "it has no body"}
    robots, licence = _said(tree, html)
    document: Any = tree.document
    scripts = document.query_selector_all('script[type="application/ld+json"]')[:] if "ld+json" in html else []
    metadata = [script.text or "" for script in scripts]
    put = formulas.keep(tree, html)
    marked = put + markup.mark(tree, html)
    text, pairs = markup.unmarked(extracted(tree, html, marked))
    pairs += _metadata(metadata, text, pairs)
    return _page(text, " ".join((tree.title or "").split())[:300], robots, licence, put, pairs)


def extracted(tree: Any, html: str, marked: int) -> str:
    """Extract the text of a marked tree: the main content, or, if that would lose marked parts, everything except
    navigation.

    `marked` formulas and answers were inserted; formulas that the page writes as text are counted in its source.
    """
    from resiliparse.extract.html2text import extract_plain_text

    options: dict[str, Any] = {"preserve_formatting": True, "alt_texts": False, "post_meta": False}
    main = str(extract_plain_text(tree, main_content=True, **options))
    if len(WHOLE.findall(main)) >= marked and len(WRITTEN.findall(main)) >= len(WRITTEN.findall(html)):
        return main
    wide = str(extract_plain_text(tree, main_content=False, skip_elements=ASIDE, **options))
    lost = any(len(kind.findall(main)) < len(kind.findall(wide)) for kind in (WHOLE, WRITTEN))
    return wide if lost else main


def _said(tree: Any, html: str) -> tuple[str, str]:
    """Read a page's robots directives and licence."""
    low = html.lower()
    robots, licence = "", ""
    if "robots" in low and tree.head is not None:
        for node in tree.head.query_selector_all("meta")[:]:
            if (node.getattr("name") or "").lower() == "robots":
                robots = (node.getattr("content") or "").lower()
    if "license" in low or "licence" in low or "dc.rights" in low:
        node = tree.document.query_selector(
            'link[rel~="license"], a[rel~="license"], meta[name="dc.rights"], meta[name="DC.rights"]'
        )
        licence = (node.getattr("href") or node.getattr("content") or "") if node is not None else ""
    return robots[:200], licence[:200]


def _metadata(scripts: list[str], text: str, stated: list[markup.Pair]) -> list[markup.Pair]:
    """The pairs of the page's JSON-LD that its other markup does not state, with positions if the text contains
    them.
    """
    known = {" ".join(pair.question.split()).lower() for pair in stated}
    found = []
    for asked, said in markup.json_ld(scripts):
        asked, said = _plain(asked), _plain(said)
        if asked and said and " ".join(asked.split()).lower() not in known:
            at = [text.find(piece) for piece in (asked, said)]
            ends = [a + len(piece) if a >= 0 else -1 for a, piece in zip(at, (asked, said), strict=True)]
            found.append(markup.Pair("json-ld", asked, said, (at[0], ends[0], at[1], ends[1])))
    return found


def _plain(said: str) -> str:
    """The plain text of a piece of HTML in the metadata."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    if "<" not in said and "&" not in said:
        return said.strip()
    tree = HTMLTree.parse(said)
    formulas.keep(tree, said)
    return markup.PRIVATE.sub("", extract_plain_text(tree, preserve_formatting=True, alt_texts=False)).strip()


def _page(text: str, title: str, robots: str, licence: str, put: int, pairs: list[markup.Pair]) -> Parsed:
    if not text.strip():
        return {"reason": "no text", "detail": "nothing of it is left without its markup"}
    stated = [[pair.rule, pair.question, pair.answer, list(pair.at)] for pair in pairs]
    return {"text": text, "title": title, "robots": robots, "licence": licence, "formulas": put, "pairs": stated}


def _answer(question: tuple[int, list[Any]]) -> Parsed:
    """Parse a page in the worker process. Exceptions become a reason, so none is raised."""
    memory, page = question
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, resource.getrlimit(resource.RLIMIT_AS)[1]))
    try:
        parsed = read_page(*page)
        # A lone surrogate cannot be sent
        texts = {key: parsed[key] for key in ("text", "title") if key in parsed}
        return parsed | {key: text.encode("utf-8", "replace").decode() for key, text in texts.items()}
    except MemoryError:
        return {"reason": "takes too much memory", "detail": "see pages.memory"}
    except (RecursionError, ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        return {"reason": "cannot be read", "detail": f"{type(error).__name__}: {error}"[:200]}


if __name__ == "__main__":
    import resiliparse.extract.html2text
    import resiliparse.parse.encoding
    import resiliparse.parse.html  # noqa: F401

    serve_questions(_answer)
