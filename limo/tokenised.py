"""A training set that is never in memory: rows stream from Parquet, are tokenised once, and stay on the disk as Arrow.

    train.data=runs/mammoth2/curated.parquet

Rank 0 reads the file in batches, renders and audits each row (`limo/render.py`, `limo/audit.py`) and appends its tokens
to `tokens/rows.arrow` in the run's folder, which every rank then maps into memory. What is held is the length of each
row, four bytes. A run that goes on finds the tokens that are there, if they were made from the same rows in the same
way.
"""

import json
import shutil
from array import array
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from limo.data import Dropped, Example, content_id, dump, replacing
from limo.errors import UserError
from limo.parallel import chunked
from limo.progress import progress, say
from limo.rows import check_rows, columns, prepare

BATCH = 512  # rows read, rendered and written at once


@dataclass(frozen=True)
class Tokenised:
    """Rows to train on, as files. The last row of the dataset teaches nothing (`limo.rows.columns`)."""

    folder: Path
    lengths: "array[int]"  # tokens of each row
    learned: int
    dropped: range
    unit: str = "chains"

    @property
    def rows(self) -> range:
        """As many as there are."""
        return range(len(self.lengths))

    def dataset(self) -> Any:
        """The rows' tokens, mapped from the disk."""
        from datasets import Dataset

        return Dataset.from_file(str(self.folder / "rows.arrow"))


def is_parquet(path: str) -> bool:
    """Whether a training set is one that streams."""
    return path.lower().endswith(".parquet")


def read_parquet(path: str | Path) -> Iterator[Example]:
    """The examples of a file that `limo.data.write_parquet` wrote, streamed. Raises UserError if it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(Path(path).expanduser()) as table:
            missing = {"id", "prompt", "completion"} - set(table.schema_arrow.names)
            if missing:
                raise UserError(
                    f"{path} has no column {', '.join(sorted(missing))}: it is no training set of this toolkit"
                )
            wanted = [field.name for field in fields(Example) if field.name in table.schema_arrow.names]
            rows = (row for some in table.iter_batches(batch_size=BATCH, columns=wanted) for row in some.to_pylist())
            for number, row in enumerate(rows, 1):
                yield _example(row, f"{path}, row {number}")
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _example(row: Mapping[str, Any], where: str) -> Example:
    """The example of a row. Raises UserError for columns of other types, and prompts that no template could render."""
    prompt, said = row["prompt"] or [], row["completion"] or []
    text = {name: row.get(name) or "" for name in ("id", "answer", "source")}
    weight = 1.0 if row.get("weight") is None else row["weight"]
    wrong = [
        f"{name} is {type(value).__name__}, not text" for name, value in text.items() if not isinstance(value, str)
    ]
    if not isinstance(weight, int | float):
        wrong.append(f"weight is {type(weight).__name__}, not a number")
    if not prompt or not _are_messages(prompt):
        wrong.append("prompt is no list of messages with role and content")
    if not _are_messages(said) or [message["role"] for message in said] not in ([], ["assistant"]):
        wrong.append("completion is not one message of the assistant")
    if wrong:
        raise UserError(f"{where}: {'; '.join(wrong)}. Foreign files are read as a pool source")
    told = said[0]["content"] if said else ""
    return Example(text["id"], tuple(prompt), text["answer"], told, weight=float(weight), source=text["source"])


def _are_messages(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("role", "content")) for one in value
    )


def tokenise(tokenizer: Any, settings: Mapping[str, Any], folder: Path, dropped: Path) -> None:
    """Write the tokens of `settings["data"]` into `folder`, unless they are there. For one process of all ranks.

    What is set aside goes to `dropped`, with its reason. Raises UserError for rows that would not teach what they
    should.
    """
    made = _made_from(tokenizer, settings)
    if _meta(folder).get("made_from") == made:
        say(f"already tokenised: {folder}")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lengths, learned, gone = array("I"), 0, 0
    with ExitStack() as stack:
        aside = stack.enter_context(replacing(dropped))
        writer = stack.enter_context(_Writer(folder / "rows.arrow"))
        advance = stack.enter_context(progress("tokenising", None, "row"))
        for rows in chunked(read_parquet(settings["data"]), BATCH):
            prepared = prepare(tokenizer, rows, settings["max_length"])
            gone += len(prepared.dropped)
            _set_aside(prepared.dropped, aside, settings)
            check_rows(tokenizer, prepared.rows, prepared.rendered, settings["system"], settings["data"])
            if prepared.rows:
                writer.add(columns(prepared, settings["weighting"]))
            lengths.extend(prepared.lengths)
            learned += prepared.learned
            advance(len(rows))
        writer.end()
    if not lengths:
        raise UserError(f"no row of {settings['data']} can be trained on: see {dropped}")
    with (folder / "lengths.bin").open("wb") as file:
        lengths.tofile(file)
    meta = {"made_from": made, "rows": len(lengths), "learned": learned, "dropped": gone}
    with replacing(folder / "meta.json") as text:  # last: what it vouches for is whole by now
        json.dump(meta, text)


def opened(folder: Path) -> Tokenised:
    """What `tokenise` wrote."""
    meta, lengths = _meta(folder), array("I")
    with (folder / "lengths.bin").open("rb") as file:
        lengths.fromfile(file, meta["rows"])
    return Tokenised(folder, lengths, meta["learned"], range(meta["dropped"]))


def described(tokens: Tokenised, max_length: int) -> str:
    """Rows, tokens and lengths in one line."""
    longest, total = max(tokens.lengths), sum(tokens.lengths)
    return (
        f"{len(tokens.lengths):,} rows on the disk, {total:,} tokens, of which {tokens.learned:,} are learned; a row: "
        f"{total / len(tokens.lengths):,.0f} tokens (mean), {longest:,} (longest; the limit is {max_length:,})"
    )


def _made_from(tokenizer: Any, settings: Mapping[str, Any]) -> str:
    """A name of all that the tokens depend on."""
    from limo.manifest import content_hash

    words = content_id([tokenizer.chat_template, len(tokenizer), sorted(tokenizer.get_vocab().items())[:1000]])
    kept = {key: settings[key] for key in ("max_length", "system", "weighting", "model", "chat_template")}
    return content_id([content_hash(Path(settings["data"]).expanduser()), words, kept])


def _meta(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "meta.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def _set_aside(dropped: list[Dropped], file: Any, settings: Mapping[str, Any]) -> None:
    for row in dropped:
        file.write(dump(row.to_json()))
        if settings["too_long"] == "stop":
            raise UserError(
                f"{row.id} of {settings['data']} cannot be trained on ({row.reason}, {row.detail}). Mend it, raise "
                "train.max_length, or set train.too_long=drop"
            )


class _Writer:
    """Appends rows to an Arrow stream; the row that teaches nothing comes last."""

    def __init__(self, path: Path) -> None:
        self.path, self.idle = path, dict[str, Any]()
        self.writer: Any = None

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()

    def add(self, rows: list[dict[str, Any]]) -> None:
        *taught, idle = rows
        if not self.idle or len(idle["input_ids"]) < len(self.idle["input_ids"]):
            self.idle = idle
        self._write(taught)

    def end(self) -> None:
        if self.idle:
            self._write([self.idle])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa

        numbers = {key: pa.float64() if key in ("weight", "share") else pa.list_(pa.int32()) for key in rows[0]}
        table = pa.Table.from_pylist(rows, schema=pa.schema(list(numbers.items())))
        if self.writer is None:
            self.writer = pa.ipc.new_stream(str(self.path), table.schema)
        self.writer.write_table(table)
