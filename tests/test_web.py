"""Web pages: hostile ones cost themselves, archives that break off keep what came before, pairs know their place."""

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from curation.methods.mammoth2.archives import PageColumns, find_archives
from curation.methods.mammoth2.harvest import extract_by_model, extract_by_rules, final_answer, parse_pairs
from curation.methods.mammoth2.markup import RULES
from curation.methods.mammoth2.pages import archives, domain_of, read
from curation.methods.mammoth2.refine import Bounds, refine, verify_pairs
from curation.stage import check_stages, collecting
from curation.stages.decontaminate import drop_overlap
from limo.data import Dropped, Example, Row, chat
from limo.engines.protocol import Completion, Sampling, Scripted
from limo.engines.reply import code_of
from limo.errors import UserError
from limo.recipe import RECIPES
from tests.test_commands import Run

LIMITS: dict[str, Any] = {"columns": None, "max_bytes": 5_000_000, "seconds": 1.0, "memory": 512}
LIMITS |= {"deny": [], "robots": ["noai"]}
DOMAINS = "curation.methods.mammoth2.domains.judge_domains"
ONCE = Sampling(n=1, temperature=0.0, top_p=1.0, max_tokens=500, seed=0)


def pages(*paths: Path | str, **changed: Any) -> list[Row]:
    return list(read(list_of(archives("web", "S", paths=[str(p) for p in paths])), **{**LIMITS, **changed}))


def list_of(rows: Iterable[Row]) -> list[Example]:
    return [row for row in rows if isinstance(row, Example)]


def reasons(rows: Iterable[Row]) -> list[str]:
    return [row.reason if isinstance(row, Dropped) else "" for row in rows]


def page(html: str, tmp_path: Path, name: str = "page.html") -> Example:
    (tmp_path / name).write_text(html, encoding="utf-8")
    (row,) = list_of(pages(tmp_path / name))
    return row


def record(url: str, body: bytes, *headers: str, kind: str = "response") -> bytes:
    http = "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: text/html; charset=utf-8", *headers, "\r\n"])
    block = http.encode() + body if kind == "response" else body
    media = "application/http; msgtype=response" if kind == "response" else "text/plain"
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {url}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
    return f"{head}Content-Type: {media}\r\nContent-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"


def warc(path: Path, *records: bytes) -> Path:
    path.write_bytes(b"".join(gzip.compress(one) for one in records) if path.suffix == ".gz" else b"".join(records))
    return path


def ask(reply: Any) -> dict[str, Any]:
    global _engine
    _engine = Scripted(reply, fingerprint=f"scripted-{next(_numbers)}")  # so that no test finds another's replies
    return {"_target_": "tests.test_web.scripted"}


_engine: Scripted
_numbers = count()


def scripted() -> Scripted:
    return _engine


HOSTILE = {
    "nested": ("<div>" * 200_000 + "x", "takes too long|cannot be read|takes too much memory"),
    "tables": ("<table><tr><td>" * 60_000 + "x", "|takes too long|cannot be read|takes too much memory"),
    "empty": ("", "no text"),
    "markup only": ("<html><head><title>t</title></head><body><script>1</script></body></html>", "no text"),
    "too long": ("<p>" + "word " * 2_000_000, "page too long"),
}


def test_hostile_pages_cost_themselves(tmp_path: Path) -> None:
    good = record("http://a.example/good", b"<p>Good pages stay, whatever stands beside them.</p>")
    hostile = [record(f"http://a.example/{name.split()[-1]}", html.encode()) for name, (html, _) in HOSTILE.items()]
    rows = pages(warc(tmp_path / "a.warc", good, *hostile, good))
    assert reasons(rows)[0] == reasons(rows)[-1] == ""
    for why, (name, (_, allowed)) in zip(reasons(rows)[1:-1], HOSTILE.items(), strict=True):
        assert why in allowed.split("|"), f"{name}: {why}"
    assert all(row.file and row.row for row in rows if isinstance(row, Dropped)), "each with its archive and record"


@pytest.mark.slow
def test_fifty_megabytes_of_nesting(tmp_path: Path) -> None:
    (tmp_path / "deep.html").write_bytes(b"<b>" * 16_700_000)
    (tmp_path / "fine.html").write_text("<p>fine</p>")
    rows = pages(tmp_path, max_bytes=60_000_000, seconds=2.0)
    assert reasons(rows)[0] in ("takes too long", "takes too much memory", "cannot be read") and reasons(rows)[1] == ""


def test_a_bomb_is_not_unpacked_and_wrong_types_are_told(tmp_path: Path) -> None:
    bomb = gzip.compress(b"<p>" + b"\0" * 300_000_000, 9)
    packed = gzip.compress("<p>größer als 2<sup>3</sup></p>".encode())
    rows = pages(
        warc(
            tmp_path / "a.warc.gz",
            record("http://a.example/bomb", bomb, "Content-Encoding: gzip"),
            record("http://a.example/packed", packed, "Content-Encoding: gzip"),
            record("http://a.example/broken", packed[:20], "Content-Encoding: gzip"),
            record("http://a.example/br", b"\x8b\x00\x80binary", "Content-Encoding: br"),
            record("http://a.example/pdf", b"%PDF-1.7 ..."),
            record("http://a.example/zip", b"PK\x03\x04 ..."),
        )
    )
    wanted = ["page too long", "", "broken compression", "unknown compression", "not a page", "not a page"]
    assert all(why in w.split("|") for why, w in zip(reasons(rows), wanted, strict=True)), reasons(rows)
    assert list_of(rows)[0].question == "größer als 2^3"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("<p>naïve café</p>".encode("latin-1"), "naïve café"),
        ("<meta charset=windows-1251><p>Решение задачи номер пять</p>".encode("cp1251"), "Решение задачи номер пять"),
        ("<p>Antwort: größer</p>".encode("utf-16"), "Antwort: größer"),
        ("<meta charset=shift_jis><p>問題を解きなさい</p>".encode("shift_jis"), "問題を解きなさい"),
        (b"\xef\xbb\xbf<p>with a mark</p>", "with a mark"),
        (b"<p>one \xe2\x28 bad byte in a text that is long enough to be read all the same</p>", "one"),
    ],
)
def test_encodings(body: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "p.html").write_bytes(body)
    (row,) = list_of(pages(tmp_path))
    assert text in row.question


def test_bytes_without_an_encoding_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "p.html").write_bytes(b"<p>" + bytes(range(128, 256)) * 40)
    assert reasons(pages(tmp_path))[0] in ("broken encoding", "not a page")


def damaged(member: bytes, how: str) -> bytes:
    """A packed record with a fault."""
    broken = bytearray(member)
    match how:
        case "checksum":
            broken[-6] ^= 1
        case "content":
            broken[len(member) // 2] ^= 0xFF
        case "magic":
            broken[0] = 0
        case "zeros":
            broken[30:] = bytes(len(member) - 30)
        case "half":
            broken = broken[: len(member) // 2]
    return bytes(broken)


TEN = [record(f"http://a.example/{i}", f"<p>page {i} of ten</p>".encode()) for i in range(10)]


@pytest.mark.parametrize("how", ["checksum", "content", "magic", "zeros", "half"])
def test_a_damaged_record_costs_itself(how: str, tmp_path: Path) -> None:
    members = [gzip.compress(one) for one in TEN]
    for at in (0, 4, 8):
        packed = [damaged(member, how) if i == at else member for i, member in enumerate(members)]
        (tmp_path / "a.warc.gz").write_bytes(b"".join(packed))
        rows = pages(tmp_path / "a.warc.gz")
        wanted = ["damaged record" if i == at else "" for i in range(10)]
        assert reasons(rows) == wanted, at
        assert isinstance(rows[at], Dropped) and rows[at].row == at + 1 and rows[at].detail


def test_an_archive_that_breaks_off_keeps_what_came_before(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(TEN))
    (tmp_path / "cut.warc.gz").write_bytes(whole[:-20])
    (tmp_path / "last.warc.gz").write_bytes(b"".join(map(gzip.compress, TEN))[:-20])
    (tmp_path / "plain.warc").write_bytes(b"".join(TEN)[:-60])
    for name in ("cut.warc.gz", "last.warc.gz", "plain.warc"):
        rows = pages(tmp_path / name)
        assert len(list_of(rows)) in (8, 9) and reasons(rows)[-1] == "archive breaks off", name
    (tmp_path / "junk.warc").write_bytes(b"".join(TEN[:6]) + b"junk\r\n\r\n" + b"".join(TEN[6:]))
    rows = pages(tmp_path / "junk.warc")
    assert len(list_of(rows)) == 10 and Counter(reasons(rows))["damaged record"] == 1
    (tmp_path / "lies.warc.gz").write_bytes(b"this is no gzip file")
    (tmp_path / "lies.warc").write_bytes(b"nor is this an archive\n" * 20)
    (tmp_path / "lies.parquet").write_bytes(b"nor this")
    table = {"columns": PageColumns("html", "html", "url")}
    told = [reasons(pages(tmp_path / f"lies{ending}", **table)) for ending in (".warc.gz", ".warc", ".parquet")]
    assert told == [["not a WARC file"], ["not a WARC file"], ["cannot be read"]]


@pytest.mark.parametrize(
    "body", [b"zz\r\n<p>a</p>", b"-5\r\nabc", b"8\r\n<p>a</p>\r\nq", b"f" * 16 + b"\r\nabc", b"8\r\n<p>"]
)
def test_a_body_whose_chunks_are_wrong_costs_itself(body: bytes, tmp_path: Path) -> None:
    head, good = "Transfer-Encoding: chunked", b"8\r\n<p>a</p>\r\n9\r\n<p>bb</p>\r\n0\r\n\r\n"
    for name in ("a.warc", "a.warc.gz"):
        records = [record("http://a.example/1", good, head), record("http://a.example/2", body, head), TEN[3]]
        rows = pages(warc(tmp_path / name, *records))
        assert reasons(rows) == ["", "damaged record", ""]
        assert [row.question for row in list_of(rows)] == ["a\n\nbb", "page 3 of ten"]


def test_a_record_that_is_no_page_has_its_reason(tmp_path: Path) -> None:
    good = record("HTTPS://a.example/good", b"<p>It stays.</p>")
    path = warc(tmp_path / "a.warc", good.replace(b"200 OK", b"404 NO"), good.replace(b"text/html", b"image/png"), good)
    assert reasons(rows := pages(path)) == ["not a page", "not a page", ""]
    assert [row.detail for row in rows if isinstance(row, Dropped)] == ["status 404", "image/png"]


def test_wet_parquet_and_jsonl(tmp_path: Path) -> None:
    import pandas as pd

    warc(
        tmp_path / "a.warc.wet.gz",
        record("http://a.example/1", b"Q: How many legs has a spider?\nA: It has eight legs.", kind="conversion"),
    )
    (row,) = list_of(pages(tmp_path / "a.warc.wet.gz"))
    assert row.notes["stated"][0][:3] == ["labelled lines", "How many legs has a spider?", "It has eight legs."]
    rows = [{"html": "<p>first 3<sup>2</sup></p>", "url": "http://a.example/1"}, {"html": 5, "url": "b"}]
    pd.DataFrame([rows[0]]).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + "{broken\n" + "[1]\n")
    columns = PageColumns("html", "html", "url")
    assert list_of(pages(tmp_path / "a.parquet", columns=columns))[0].question == "first 3^2"
    assert reasons(pages(tmp_path / "a.jsonl", columns=columns)) == ["", "wrong type", "invalid JSON", "not an object"]
    for name in ("a.parquet", "a.jsonl"):
        with pytest.raises(UserError, match=r"has no column 'content' but html, url: set pages\.columns"):
            pages(tmp_path / name, columns=PageColumns("content", "html", "url"))


def test_addresses_that_fsspec_knows(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://crawl/a.warc.gz", "wb") as file:
        file.write(gzip.compress(record("http://a.example/1", b"<p>from a store</p>")))
    assert find_archives("memory://crawl/*.warc.gz") == ["memory:///crawl/a.warc.gz"]
    assert list_of(pages("memory://crawl/*.warc.gz"))[0].question == "from a store"
    with pytest.raises(UserError, match="there is no archive"):
        find_archives("memory://nothing")
    with pytest.raises(UserError, match=r"cannot (list|open) 's3://"):
        find_archives("s3://127.0.0.1-no-such-bucket/x.warc.gz")
    with pytest.raises(UserError, match=r"no archive of pages at .*: nothing there ends with \.warc"):
        (tmp_path / "x.docx").write_text("x")
        find_archives(str(tmp_path / "x.docx"))


def test_wrong_input_is_one_line(tmp_path: Path, run: Run) -> None:
    """What a machine without the demo's pages is told."""
    settings = [
        "recipe=mammoth2_demo",
        f"curate.pool.debian.paths=[{tmp_path}]",
        "~curate.stages.recall.seeds.positives.faq",
        f"runs={tmp_path}/runs",
    ]
    told = run("curation.run", *settings)
    assert told.returncode == 2 and "Traceback" not in told.stderr
    (said,) = [line for line in told.stderr.splitlines() if "curate.pool.debian" in line]
    assert "pool source 'debian': there is no archive of pages at" in said and "apt-get install" in said


def test_domains_robots_and_licence_stay_with_the_row(tmp_path: Path) -> None:
    licence = b"<link rel='license' href='https://creativecommons.org/licenses/by/4.0/'>"
    rows = pages(
        warc(
            tmp_path / "a.warc",
            record("https://www.good.example/1", b"<head>" + licence + b"</head><p>words</p>"),
            record("https://shop.bad.example/1", b"<p>words</p>"),
            record("https://good.example/2", b"<p>words</p>", "X-Robots-Tag: noai"),
            record("https://good.example/3", b"<head><meta name=robots content='noindex, noai'></head><p>a</p>"),
        ),
        deny=["bad.example"],
    )
    assert reasons(rows) == ["", "domain not wanted", "robots", "robots"]
    found_ = list_of(rows)[0].notes["page"]
    assert (found_["domain"], found_["licence"]) == ("good.example", "https://creativecommons.org/licenses/by/4.0/")
    assert len(found_["hash"]) == 64 and found_["record"] == 1 and found_["archive"].endswith("a.warc")
    assert domain_of("http://[broken") == ""


# fmt: off
PAGES = {
    "schema.org": (
        "<div itemscope itemtype='https://schema.org/Question'><h2 itemprop='name'>How tall is it?</h2>"
        "<div itemprop='acceptedAnswer' itemscope itemtype='https://schema.org/Answer'>"
        "<p itemprop='text'>It is 10<sup>3</sup> m tall.</p></div></div>",
        ("How tall is it?", "It is 10^3 m tall."),
    ),
    "json-ld": (
        '<script type="application/ld+json">{"@type":"FAQPage","mainEntity":[{"@type":"Question","name":"Is 7 prime?",'
        '"acceptedAnswer":{"@type":"Answer","text":"<p>Yes, <b>7</b> is prime.</p>"}}]}</script>'
        "<p>Is 7 prime? Yes, 7 is prime.</p>",
        ("Is 7 prime?", "Yes, 7 is prime."),
    ),
    "q&a markup": (
        "<div class='faq-item'><div class='faq-question'>Who pays for it?</div>"
        "<div class='faq-answer' style='display:none'>The sender pays.</div></div>",
        ("Who pays for it?", "The sender pays."),
    ),
    "problem and solution": (
        "<h2>Problem 3</h2><p>Work out 2<sup>4</sup>.</p><h3>Solution:</h3>"
        "<p>It is 16, since 2·2·2·2 = 16.</p><h2>Problem 4</h2><p>Later.</p>",
        ("Work out 2^4.", "It is 16, since 2·2·2·2 = 16."),
    ),
    "faq heading": (
        "<section><h2>1.3 What is a field?<a class='headerlink' href='#f'>¶</a></h2>"
        "<p>A ring in which one can divide.</p></section><p>Imprint</p>",
        ("What is a field?", "A ring in which one can divide."),
    ),
    "definition": (
        "<dl><dt>Median</dt><dd>The value in the middle of a sorted list.</dd></dl>",
        ("Median", "The value in the middle of a sorted list."),
    ),
    "labelled lines": (
        "<p><b>Exercise 2.</b> Name a prime above 7.</p><p><b>Solution.</b> One is 11.</p>",
        ("Name a prime above 7.", "One is 11."),
    ),
}
# fmt: on


@pytest.mark.parametrize("rule", RULES)
def test_pairs_that_a_page_states(rule: str, tmp_path: Path) -> None:
    html, pair = PAGES[rule]
    row = page(f"<html><body><main><h1>Page</h1>{html}</main></body></html>", tmp_path)
    assert [(r, q, a) for r, q, a, _ in row.notes["stated"]] == [(rule, *pair)]
    (_, question, answer, (a, b, c, d)) = row.notes["stated"][0]
    assert (row.question[a:b], row.question[c:d]) == (question, answer), "the pair is a piece of the page's text"


@pytest.mark.parametrize(
    "text, pairs",
    [
        ("Question 1: Two and two?\nQuestion 2: Three and three?\nAnswer 1: Four\nAnswer 2: Six", "Two:Four Three:Six"),
        ("Problem 1. Two?\nProblem 2. Three?\nAnswers:\n1. Four\n2. Six", "Two:Four Three:Six"),
        ("Exercise: 1. Two? 2. Three?\nAnswers: 1. Four 2. Six", "Two:Four Three:Six"),
        ("Problem 1. Two?\nProblem 2. Three?\nSolution: Six", "Three:Six"),
        ("Problem 1. Two?\nProblem 2. Three?\nAnswers: at the end of the book", ""),
        ("Problem 1. Two?\nSolution 2. Six", ""),
    ],
)
@pytest.mark.parametrize("headings", [False, True])
def test_an_answer_belongs_to_the_question_of_its_number(text: str, pairs: str, headings: bool, tmp_path: Path) -> None:
    """A key at the end is no answer to the last problem."""
    if headings:
        text = re.sub(r"(?m)^([A-Z]\w+(?: \d)?)[.:] ?(.*)$", r"<h3>\1</h3><p>\2</p>", text)
    else:
        text = text.replace("\n", "<br>")
    row = page(f"<main><h1>Page</h1>{text}</main>", tmp_path)
    found = [f"{q.split()[0].strip('?')}:{a.split()[0]}" for _, q, a, _ in row.notes["stated"]]
    assert found == pairs.split()


def test_of_suggested_answers_the_most_voted_is_taken(tmp_path: Path) -> None:
    answer = "<div itemprop='suggestedAnswer' itemscope><b itemprop='upvoteCount'>{}</b><p itemprop='text'>{}</p></div>"
    both = answer.format(2, "By the first rule.") + answer.format(31, "By the second rule.")
    html = f"<div itemscope itemtype='https://schema.org/Question'><h2 itemprop='name'>By which?</h2>{both}</div>"
    assert page(f"<main>{html}</main>", tmp_path).notes["stated"][0][2] == "By the second rule."
    said = [{"text": "By the first.", "upvoteCount": "3"}, {"text": "By the second.", "upvoteCount": 30}]
    data = json.dumps({"@type": "Question", "name": "By which rule?", "suggestedAnswer": said})
    row = page(f'<script type="application/ld+json">{data}</script><p>By which rule?</p>', tmp_path)
    assert row.notes["stated"][0][2] == "By the second."


def test_a_table_of_contents_answers_nothing(tmp_path: Path) -> None:
    entries = (
        "<dl><dt><a href='#1'>1. What is it?</a></dt><dd><dl><dt><a href='#2'>1.1 Who made it?</a></dt></dl></dd></dl>"
    )
    assert not page(f"<main>{entries}<p>Text of the page.</p></main>", tmp_path).notes["stated"]
    plain = "<dl><dt>What is it in full?</dt><dd>1.1 Who made all of it<br>1.2 Where does one get it</dd></dl>"
    assert reasons(extract_by_rules([page(plain, tmp_path)], rules=["definition"], least=1, most=50)) == [
        "a table of contents"
    ]


def test_a_page_cannot_write_marks(tmp_path: Path) -> None:
    forged = "&#xE000;sq1&#xE001;Whose?&#57344;sqend1&#57345;&#xe000;sa1&#xe001;Mine.&#xE000saend1&#xE001 &#xE010;$x$"
    row = page(f"<main><p>{forged}&#xE0001; stays</p></main>", tmp_path)
    assert not row.notes["stated"] and "Whose?" in row.question and "\U000e0001 stays" in row.question


def test_steps_of_a_solution_belong_to_it(tmp_path: Path) -> None:
    steps = "<h3>Solution</h3><p>In two.</p><h4>Step 1</h4><p>Add.</p><h4>Step 2</h4><p>It is 7.</p>"
    after = "<h4>Why so?</h4><p>Because.</p><h3>Comments</h3><p>Thanks!</p>"
    row = page(f"<main><h2>Problem 1</h2><p>What is 3 + 4?</p>{steps}{after}</main>", tmp_path)
    (pair, why) = row.notes["stated"]
    assert pair[2].startswith("In two.") and pair[2].endswith("It is 7.") and why[2] == "Because."
    boxes = f"<section><h2>Problem 1</h2><p>What?</p><section>{steps}</section></section>"
    (pair,) = page(f"<main>{boxes}<section><h4>Ads</h4><p>Buy.</p></section></main>", tmp_path).notes["stated"]
    assert pair[2].endswith("It is 7."), "the section around a solution ends it"


def test_half_of_a_surrogate_pair_costs_itself(tmp_path: Path) -> None:
    row = {"page": "Q: Is \ud800 one?\nA: It is \ud83d one.", "url": "http://a.example/\udc00"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    (found_,) = list_of(pages(tmp_path, columns=PageColumns("page", "text", "url")))
    _, question, answer, (a, b, c, d) = found_.notes["stated"][0]
    assert (found_.question[a:b], found_.question[c:d]) == (question, answer) == ("Is \ufffd one?", "It is \ufffd one.")
    assert found_.notes["page"]["url"] == "http://a.example/?"
    (tmp_path / "a.jsonl").write_text(json.dumps({**row, "page": f"<p>{row['page']}</p>"}) + "\n")
    assert reasons(pages(tmp_path, columns=PageColumns("page", "html", "url"))) == [""]


def test_an_archive_without_pages_is_told(tmp_path: Path) -> None:
    import pandas as pd

    pd.DataFrame({"html": [], "url": []}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_bytes(b"")
    (tmp_path / "c.html.gz").write_bytes(b"nor this")
    rows = pages(tmp_path, columns=PageColumns("html", "html", "url"))
    assert reasons(rows) == ["no page in the archive", "no page in the archive", "archive breaks off"]


def test_a_pair_knows_where_it_is_from(tmp_path: Path) -> None:
    """The release has no provenance of a pair."""
    row = page(f"<main>{PAGES['schema.org'][0]}</main>", tmp_path)
    with collecting() as metrics:
        (pair,) = list_of(extract_by_rules([row], rules=list(RULES), least=2, most=50))
    assert pair.prompt == chat("How tall is it?", "S") and pair.id == f"{row.id}/1"
    place = pair.notes["extracted"]
    assert place["by"] == "rule" and row.question[slice(*place["answer"])] == pair.completion
    assert pair.notes["page"]["url"] == (tmp_path / "page.html").as_uri() and "stated" not in pair.notes
    assert metrics["pairs"] == 1, "yields are counted"


def test_useless_pairs_are_set_aside(tmp_path: Path) -> None:
    boxes = {
        "Why?": ("See the full answer", "answer cut off"),
        "How does one do this here?": ("Yes.", "answer too short"),
        "?": ("It is a long answer.", "no question"),
        "Long one?": ("w " * 60, "answer too long"),
        "Why is it so?": ("Because <b>we</b> say so.", ""),
    }
    html = "".join(f"<details><summary>{q}</summary><p>{a}</p></details>" for q, (a, _) in boxes.items())
    rows = list(extract_by_rules([page(html, tmp_path)], rules=["q&a markup"], least=3, most=50))
    assert reasons(rows) == [why for _, why in boxes.values()]
    assert list_of(rows)[0].completion == "Because we say so."
    assert reasons(extract_by_rules([page("<p>nothing</p>", tmp_path)], rules=["definition"], least=1, most=5)) == [
        "no pair"
    ]


def test_a_model_copies_pairs_or_says_that_there_are_none(tmp_path: Path) -> None:
    one = page("<p>What is 2+2?</p><p>It is 4.</p><p>By: Ann</p>", tmp_path, "one.html")
    two = page("<p>Buy our tea today, it is fresh.</p>", tmp_path, "two.html")
    six = page("<p>Only a page of names: Bob, Eve.</p>", tmp_path, "six.html")

    def reply(prompt: str, _: int) -> str:
        if "2+2" in prompt:
            code = code_of(one.question)
            block = f"### pair {code}\n### question\n{{}}\n### answer\n{{}}\n"
            return block.format("What is 2+2?", "It is  4.") + block.format("What is 3+3?", "6") + f"### end {code}"
        return f"### nothing {code_of(two.question)}" if "tea" in prompt else "I see none."

    rows = list(extract_by_model([one, two, six], engine=ask(reply), sampling=ONCE, piece=100, least=2, most=50))
    assert reasons(rows) == ["", "not on the page", "no pair", "reply cannot be read"]
    pair = list_of(rows)[0]
    place = pair.notes["extracted"]
    assert (pair.question, pair.completion) == ("What is 2+2?", "It is 4.")
    assert [one.question[slice(*place[part])] for part in ("question", "answer")] == ["What is 2+2?", "It is 4."]
    assert place["by"] == _engine.fingerprint and len(place["prompt"]) == 16, "model and prompt are known"


def test_formulas_may_be_tidied_in_copying(tmp_path: Path) -> None:
    row = page("<p>What is \\( \\dfrac{1}{2} + x \\) here?</p><p>It is $ \\left( 1+2x \\right) / 2 $.</p>", tmp_path)
    code = code_of(row.question)
    copied = "### question\nWhat is $\\frac{1}{2}+x$ here?\n### answer\nIt is $(1 + 2x)/2$."
    engine = ask(lambda *_: f"### pair {code}\n{copied}\n### end {code}")
    (made,) = list_of(extract_by_model([row], engine=engine, sampling=ONCE, piece=400, least=1, most=50))
    assert made.question == "What is \\( \\dfrac{1}{2} + x \\) here?", "the words of the page stay"


def test_long_pages_are_asked_about_in_pieces(tmp_path: Path) -> None:
    row = page("".join(f"<p>Paragraph {i} has these six words.</p>" for i in range(30)), tmp_path)
    engine = ask(lambda prompt, _: f"### nothing {code_of(row.question)}")
    assert reasons(extract_by_model([row], engine=engine, sampling=ONCE, piece=40, least=1, most=50)) == ["no pair"] * 5
    shown = " ".join(request.prompt[-1]["content"] for request in _engine.asked)
    assert all(f"Paragraph {i} " in shown for i in range(30)), "nothing of it is left out"


def test_replies_in_another_form_are_no_pairs() -> None:
    said = "### pair c\n### question\nq\n### answer\na\n"
    assert parse_pairs(Completion(said + "### end c", 9, "stop"), "c") == [("q", "a")]
    assert parse_pairs(Completion(said + "### end c", 9, "length"), "c") is None, "cut off"
    for text in (said, "### pair c\nq\na\n### end c", said.replace("pair c", "pair d") + "### end c", "", "nothing"):
        assert parse_pairs(Completion(text, 9, "stop"), "c") is None


def pair(question: str, completion: str) -> Example:
    return Example("p", chat(question), final_answer(completion), completion, notes={"page": {"url": "u"}})


REFINED = {
    "Take away 3: x is 4. The answer is 4.": "",
    "Take away 3: x is 5. The answer is 5.": "final answer changed",
    "It": "too short",
    "Take away 3: x is 4. The answer is 4. " * 40: "too long",
    "First, we take away 3 from both sides, and then:": "not complete",
    "I'm sorry, but I cannot help with this question at all.": "no answer",
}


@pytest.mark.parametrize("said", REFINED)
def test_a_rewriting_is_checked_before_it_is_believed(said: str) -> None:
    """The release never verifies what its refiners write; an audit found 10 % of it wrong."""
    row = pair("Solve x + 3 = 7.", "x+3=7 so x is 4. The answer is 4.")
    code = code_of(row.question, row.completion)
    engine = ask(lambda *_: f"### question {code}\nSolve $x + 3 = 7$.\n### answer {code}\n{said}\n### end {code}")
    refiner = {"m": {"engine": engine, "sampling": ONCE}}
    bounds = Bounds(shortest=0.5, longest=10, always=0)
    (row_,) = refine([row], refiners=refiner, bounds=bounds, otherwise="keep")
    assert isinstance(row_, Example)
    if REFINED[said]:
        assert row_.completion == row.completion and row_.notes["refined"]["why"] == {"m": REFINED[said]}
        assert reasons(refine([row], refiners=refiner, bounds=bounds, otherwise="drop")) == ["not refined"]
    else:
        assert (row_.id, row_.question, row_.completion) == ("p/m", "Solve $x + 3 = 7$.", said)
        refined = row_.notes["refined"]
        assert (refined["by"], refined["model"], refined["verdict"]) == ("m", _engine.fingerprint, "correct")
        assert row_.notes["page"] == {"url": "u"}, "where it is from stays with it"


def test_a_rewriting_does_not_reverse_the_conclusion() -> None:
    """Where there is no final answer, nothing else would notice."""
    row = pair("Does the series of the reciprocals converge?", "Compare it with an integral. So it converges.")
    for said, why in (("So the series diverges.", "conclusion reversed"), ("So the series is convergent.", "")):
        code = code_of(row.question, row.completion)
        text = f"### question {code}\n{row.question}\n### answer {code}\n{said}\n### end {code}"
        node = {"engine": ask(lambda *_, text=text: text), "sampling": ONCE}
        (out,) = refine([row], refiners={"a": node}, bounds=Bounds(0.1, 10, 500), otherwise="drop")
        assert (out.detail if isinstance(out, Dropped) else "") == (why and f"a: {why}")


def test_several_refiners_and_replies_in_another_form() -> None:
    row = pair("Solve x + 3 = 7.", "x is 4. The answer is 4.")
    code, bounds = code_of(row.question, row.completion), Bounds(0.1, 10, 500)
    good = f"### question {code}\nSolve x + 3 = 7.\n### answer {code}\nTake 3 away. The answer is 4.\n### end {code}"
    node = {"engine": ask(lambda *_: good), "sampling": ONCE}
    made = refine([row], refiners={"a": node, "b": node}, bounds=bounds, otherwise="drop")
    assert [r.id for r in made] == ["p/a", "p/b"]
    for text, why in (
        (good.replace(code, "00"), "another form"),
        (good.replace("+ 3 = 7", "+ 3 = 8"), "other numbers in the question"),
    ):
        node = {"engine": ask(lambda *_, text=text: text), "sampling": ONCE}
        (dropped,) = refine([row], refiners={"a": node}, bounds=bounds, otherwise="drop")
        assert isinstance(dropped, Dropped) and dropped.detail == f"a: {why}"


def test_answers_are_verified_where_they_can_be() -> None:
    said = "2 + 2 = 4. The answer is 4.", "2 + 2 = 5. The answer is 5.", "It depends on you."
    rows = [pair(key, text) for key, text in zip("abc", said, strict=True)]
    assert reasons(verify_pairs(rows, unverified="keep")) == ["", "false equation", ""]
    assert reasons(verify_pairs(rows, unverified="drop")) == ["", "false equation", "cannot be graded"]


def test_overlap_with_question_or_answer(tmp_path: Path) -> None:
    """The release matches runs of ten words only, so a question of fewer words is never found."""
    held = tmp_path / "held.jsonl"
    long = "A farmer has seventeen sheep and all but nine of them run away at night"
    solution = "so nine of the sheep are left with the farmer in the morning"
    rows = [
        {"question": long, "solution": solution, "answer": "9"},
        {"question": "Define a Dedekind cut", "answer": "a cut"},
    ]
    held.write_text("".join(json.dumps(row) + "\n" for row in rows))
    node: Any = {"held": {"_target_": "limo.sources.file", "path": str(held)}}
    leaks = [
        pair(f"Riddle: {long.upper()}!", "x"),
        pair("What is left?", f"Well, {solution}."),
        pair("Define a dedekind CUT!", "y"),
        pair("Sheep?", "Nine."),
    ]
    found_ = list(drop_overlap(leaks, benchmarks=node, run=10))
    assert reasons(found_) == ["shares words with a benchmark"] * 3 + [""]
    assert isinstance(found_[0], Dropped) and "question of held/1" in found_[0].detail


SITE, SEEDS = (RECIPES / "data" / f"exam_{name}.warc.gz" for name in ("site", "seeds"))


def test_our_own_web_gives_every_problem_with_its_answer() -> None:
    rules = [rule for rule in RULES if rule != "faq heading"]
    rows = list_of(extract_by_rules(list_of(pages(SITE)), rules=rules, least=3, most=200))
    graded = Counter(row.notes["verdict"] for row in list_of(verify_pairs(rows, unverified="keep")))
    assert graded["correct"] == len(rows) > 250, graded
    found = {row.notes["extracted"]["rule"] for row in rows}
    assert found == {"schema.org", "json-ld", "q&a markup", "problem and solution"}


def test_what_recall_lacks_is_told_before_pages_are_read(tmp_path: Path) -> None:
    """Missing seeds, and a key of the model that decides on domains: reading a crawl may take days."""
    listed = {"_target_": "curation.methods.mammoth2.domains.listed", "keep": [], "drop": [], "otherwise": "keep"}
    engine = {"_target_": "limo.engines.server.ServerEngine", "model": "m", "base_urls": ["http://x.example"]}
    seeds = {"faq": {"_target_": "curation.methods.mammoth2.pages.archives", "paths": [f"{tmp_path}/none"]}}
    read_pages = {"_target_": "curation.methods.mammoth2.pages.read", **LIMITS}
    given: dict[str, Any] = {
        "_target_": "curation.methods.mammoth2.recall.recall",
        "seeds": {"positives": seeds, "read": read_pages, "per_class": 9},
        "learning": {"ngrams": 3, "features": 64, "epochs": 1, "rate": 1.0},
        **{"threshold": 0.5, "held_out": 0.3, "least": 2, "first": listed, "second": listed, "seed": 0},
    }
    with pytest.raises(UserError, match="source 'faq': there is no archive of pages"):
        check_stages({"recall": given}, {})
    asks = {"engine": {**engine, "api_key_env": "NO_SUCH_KEY"}, "sampling": {}, "otherwise": "drop"}
    with pytest.raises(UserError, match="NO_SUCH_KEY is not set"):
        asking = {**given, "seeds": {**given["seeds"], "positives": {}}, "second": {"_target_": DOMAINS, **asks}}
        check_stages({"recall": asking}, {})


def test_recall_in_two_rounds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMO_CORES", "1")  # starting processes takes longer than the work
    from curation.methods.mammoth2.recall import Learning, Seeds, recall

    rows = list_of(pages(SITE))
    decide = {
        "_target_": "curation.methods.mammoth2.domains.listed",
        "keep": [],
        "drop": ["shop.example"],
        "otherwise": "keep",
    }
    seeds = {"a": {"_target_": "curation.methods.mammoth2.pages.archives", "paths": [str(SEEDS)]}}
    given: dict[str, Any] = {
        "seeds": Seeds(seeds, {"_target_": "curation.methods.mammoth2.pages.read", **LIMITS}, 150),
        "learning": Learning(3, 2**16, 20, 1.0),
        **{"threshold": 0.5, "held_out": 0.3, "least": 2, "first": decide, "second": decide, "seed": 0},
    }
    with collecting() as told:
        found_ = list(recall(rows, **given))
    kept = Counter(row.notes["page"]["domain"] for row in list_of(found_))
    there = Counter(row.notes["page"]["domain"] for row in rows)
    for domain in ("exams.example", "help.example"):
        assert kept[domain] > 0.9 * there[domain], kept
    assert kept["shop.example"] == 0 and kept["news.example"] < 0.1 * there["news.example"]
    assert float(told["round 2: held-out recall"]) > 0.9 and float(told["round 2: held-out precision"]) > 0.9
    assert "held out: precision" in capsys.readouterr().err
    assert all("recall_2" in row.scores for row in list_of(found_))
    with pytest.raises(UserError, match="no domain was chosen"):
        list(recall(rows, **{**given, "least": 10**6}))


def test_a_model_decides_on_domains() -> None:
    from curation.methods.mammoth2.domains import Domain, judge_domains, listed

    domains = [Domain("exams.example", 5, 4, ("u t",)), Domain("shop.example", 5, 2), Domain("odd.example", 5, 2)]
    replies = {"exams": "Yes.", "shop": "no", "odd": "Perhaps yes, perhaps no"}
    engine = ask(lambda prompt, _: next(said for name, said in replies.items() if f"Domain: {name}" in prompt))
    chosen = judge_domains(domains, engine=engine, sampling=ONCE, otherwise="drop")
    assert chosen == {"exams.example": True, "shop.example": False, "odd.example": False}
    by_list = listed(domains, keep=["ex*"], drop=["shop.*"], otherwise="drop")
    assert by_list == {"exams.example": True, "shop.example": False, "odd.example": False}
