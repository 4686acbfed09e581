"""Defines the row type, and reads and writes files of rows.

    for row in read_jsonl("runs/demo/curated.jsonl"): ...

`Example` is what every stage takes and gives. A row that is dropped becomes a `Dropped`, which keeps the row and
the reason; nothing is dropped in silence. Reading other people's files, with their own column names, is the work of
`limo/sources/__init__.py`.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from glob import glob
from pathlib import Path
from typing import IO, Any, TypedDict

import orjson

from limo.errors import UserError

TEXT = 2**26  # most bytes of a small text file: settings, words or marks
CHARACTERS = 3  # of a token, about, in a text with formulas, where no tokenizer is at hand
LONG_NUMBER = re.compile(rb"\d{19}")


class Message(TypedDict):
    """One message of a chat, in the form that chat templates take."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One row: a problem and, once there is one, a chain that answers it. Rows are never changed, only replaced."""

    id: str  # unique among the rows of a stage
    prompt: tuple[Message, ...]  # what the model is asked, system message included
    answer: str  # the reference answer, which a right completion ends with
    completion: str = ""  # the chain to learn from; empty while there is none
    rejected: str = ""  # a worse chain, for preference training; empty otherwise
    weight: float = 1.0  # the row's weight in a weighted loss
    source: str = ""  # the pool source it came from, as the recipe names it
    scores: Mapping[str, float] = field(default_factory=dict)  # numbers that stages decide by: pass rate, features
    notes: Mapping[str, Any] = field(default_factory=dict)  # what else is known: subject, level, teacher, attempts
    problem: str = ""  # id of the problem, given by the source; all chains of one problem share it, with any prompt

    def __post_init__(self) -> None:
        if not self.problem:
            object.__setattr__(self, "problem", self.id)

    @property
    def question(self) -> str:
        """The text of the last user message."""
        return next((m["content"] for m in reversed(self.prompt) if m["role"] == "user"), "")

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return {name: getattr(self, name) for name in EXAMPLE_FIELDS} | {"prompt": list(self.prompt)}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Example":
        """The inverse of `to_json`. Raises KeyError or TypeError for a row that is not one of ours."""
        if not all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in row["prompt"]):
            raise TypeError("prompt is not a list of messages")
        known = {name: row[name] for name in EXAMPLE_FIELDS if name in row}
        for name, value in known.items():
            if name in TEXT_FIELDS and not isinstance(value, str):
                raise TypeError(f"{name} is {value!r}, not text")
        if not isinstance(known.get("weight", 1.0), int | float):
            raise TypeError(f"weight is {known['weight']!r}, not a number")
        return cls(**{**known, "prompt": tuple(row["prompt"])})

    def to_trl(self) -> dict[str, Any]:
        """The columns of TRL's conversational formats: prompt and completion, or prompt, chosen and rejected."""
        said = [Message(role="assistant", content=self.completion)]
        if not self.rejected:
            return {"prompt": list(self.prompt), "completion": said}
        worse = [Message(role="assistant", content=self.rejected)]
        return {"prompt": list(self.prompt), "chosen": said, "rejected": worse}


EXAMPLE_FIELDS = tuple(f.name for f in fields(Example))
TEXT_FIELDS = frozenset(f.name for f in fields(Example) if f.type in (str, "str"))


@dataclass(frozen=True, slots=True)
class Dropped:
    """A dropped row, with the stage that dropped it, the file and line it came from, and the reason."""

    id: str
    stage: str  # the recipe's name of the stage that dropped it
    reason: str  # a short fixed phrase, counted in the funnel
    detail: str = ""  # what exactly, for a person
    file: str = ""  # where the row was read from
    row: int = 0  # line (JSONL) or row number in that file, from 1
    data: Any = None  # the row itself, shortened where it is huge

    def to_json(self) -> dict[str, Any]:
        """All fields as plain JSON values."""
        return asdict(self)


Row = Example | Dropped  # what a source or a stage yields


def chat(question: str, system: str = "") -> tuple[Message, ...]:
    """The prompt of a question, the same in attempts, training and evaluation. An empty `system` adds no message."""
    user = Message(role="user", content=question)
    return (Message(role="system", content=system), user) if system else (user,)


def content_id(value: Any, size: int = 8) -> str:
    """A stable hex name of `size` bytes for any JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=size).hexdigest()


def check_regular(path: Path) -> None:
    """Raise UserError if the path is a device or a pipe, which may never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"'{path}' is a device or a pipe: save what it gives as a file")


def read_text(path: str | Path, where: str) -> str:
    """The text of a small file that a setting names. Raises UserError, starting with `where`, if it cannot be read."""
    path = Path(path).expanduser()
    check_regular(path)
    try:
        if path.stat().st_size > TEXT:
            raise UserError(f"{where}: '{path}' has more than {TEXT:,} bytes")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{where}: cannot read '{path}': {why}") from None


def read_jsonl(path: str | Path) -> Iterator[Example]:
    """Stream the examples of a file that this toolkit wrote. Raises UserError for an invalid line, with its number."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no such file '{path}'. Run the stage that writes it, or give another path")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            yield parse_row(line, f"{path}, line {number}")


def parse_row(line: bytes, where: str) -> Example:
    """Parse a line that this toolkit wrote. Raises UserError, starting with `where`, if it is not an example."""
    try:
        return Example.from_json(parsed(line))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where}: not a row of this toolkit ({error}). Read foreign files as a pool source") from None


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[str]]:
    """Write a text file that appears under its name only once it is complete and on the disk.

    Raises UserError if the path is a folder, or the disk is full or not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def dump(row: Any) -> str:
    """Format a value as one line of JSON. Non-ASCII text stays readable; lone surrogates, which UTF-8 cannot encode,
    are escaped.
    """
    try:
        return orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE).decode()
    except TypeError:  # half of a surrogate pair, an integer beyond 64 bits, a key that is not a text
        return json.dumps(row) + "\n"


def parsed(line: bytes) -> Any:
    """Parse a line of JSON. Raises ValueError if it is not JSON."""
    if LONG_NUMBER.search(line):
        return json.loads(line)  # orjson would turn an integer beyond 64 bits into a float
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError:  # Python's parser accepts NaN and lone surrogates, and explains invalid JSON
        return json.loads(line)


def write_jsonl(path: str | Path, rows: Iterable[Example | Dropped]) -> int:
    """Write rows, one per line, and return their number. If writing fails, no file appears."""
    count = 0
    with replacing(path) as file:
        for count, row in enumerate(rows, 1):  # noqa: B007
            file.write(dump(row.to_json()))
    return count


def write_parquet(path: str | Path, rows: Iterable[Example], group: int = 500) -> None:
    """Write rows as Parquet in TRL's format, `group` rows to a row group, small enough for the Hub's viewer.

    Prompts and chains are lists of messages, as in `Example.to_trl`; each score is a column `score_<name>`;
    `notes`, whose keys differ between rows, are a column of JSON text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = [
        {**row.to_trl(), "id": row.id, "answer": row.answer, "source": row.source, "notes": json.dumps(dict(row.notes))}
        | {"weight": row.weight, **{f"score_{name}": value for name, value in row.scores.items()}}
        for row in rows
    ]
    names = dict.fromkeys(name for row in columns for name in row)
    messages = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    kinds = {"prompt": messages, "completion": messages, "chosen": messages, "rejected": messages}
    texts = dict.fromkeys(("id", "answer", "source", "notes"), pa.string())
    schema = pa.schema([(name, (kinds | texts).get(name, pa.float64())) for name in names])
    path = Path(path)
    partial = path.with_name(f".{path.name}.part")
    pq.write_table(pa.Table.from_pylist(columns, schema), partial, row_group_size=group, compression="zstd")
    partial.replace(path)


def match_pattern(pattern: str) -> list[Path]:
    """The files that match a pattern such as `data/part-*.jsonl`, sorted; empty for a text that is not a pattern."""
    if not set(pattern) & set("*?["):
        return []
    return [Path(name) for name in sorted(glob(str(Path(pattern).expanduser()), recursive=True))]  # noqa: PTH207
