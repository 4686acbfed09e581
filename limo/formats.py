r"""What the columns of other people's rows mean: how a row of a file becomes a problem, its chains and its answer.

| format | problem | chain |
|---|---|---|
| alpaca | instruction and input | output |
| sharegpt | the human turn of `conversations` | the gpt turn |
| messages, openai | the user turn of `messages` | the assistant turn |
| csv | a column with one of the usual names (COLUMNS), in any case of letters | another |

`auto` takes the first that fits. A row may hold several chains, in a list or in several columns: candidate chains of
one problem. A problem is never changed in silence: what would lose a turn or a system message is dropped with its
reason.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from limo.data import Message
from limo.errors import UserError
from limo.marks import after_hashes, last_boxed

Format = Literal["auto", "alpaca", "sharegpt", "messages", "openai", "csv"]
Fields = Mapping[str, str | Sequence[str]]  # our name -> column or columns

COLUMNS = {
    "problem": ("problem", "question", "prompt", "query"),
    "chain": (
        "solution",
        "response",
        "chain",
        "completion",
        "reasoning",
        "worked",
        "rationale",
        "output",
        "generations",
    ),
    "answer": ("answer", "final_answer", "final", "expected_answer", "gt", "ground_truth", "reference", "target"),
    "id": ("id", "unique_id", "uuid"),
}
TURNS = {"sharegpt": "conversations", "messages": "messages", "openai": "messages"}
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
NO_ANSWER = frozenset({"proof", "notfound", "not found", "see solution", "see the solution"})  # in place of an answer


class Unusable(Exception):
    """Why a row cannot be used: reason and detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a row hold what."""

    problem: tuple[str, ...]  # joined by an empty line
    chain: tuple[str, ...]  # each is a chain, or a list of chains
    answer: str | None
    id: str | None
    turns: str | None = None  # the column of a conversation, in place of problem and chain

    @property
    def used(self) -> set[str]:
        """The names of all columns that are read."""
        return {*self.problem, *self.chain, *filter(None, (self.answer, self.id, self.turns))}

    def describe(self, others: Iterable[str]) -> str:
        """The mapping in one line, with the columns that become notes or are ignored."""
        problem = f"the user turn of {self.turns}" if self.turns else " + ".join(self.problem)
        chain = f"the assistant turn of {self.turns}" if self.turns else " and ".join(self.chain) or "none"
        answer = self.answer or "the chain's last box or #### (unchecked)"
        rest = ", ".join(sorted(others)) or "none"
        return f"problem = {problem}, chain = {chain}, answer = {answer}; other columns, kept as notes if short: {rest}"


@dataclass(frozen=True, slots=True)
class Record:
    """What a row says."""

    problem: str
    system: str  # of the row itself
    chains: tuple[str, ...]  # candidates; none is ()
    answer: str  # empty where only the chains have one
    id: str


def check_fields(fields: Fields) -> None:
    """Raise UserError for a name that is none of ours."""
    unknown = sorted(set(fields) - set(COLUMNS))
    if unknown:
        raise UserError(f"fields has '{unknown[0]}'; it may name {', '.join(COLUMNS)}")


def find_columns(row: Mapping[str, Any], format: Format, fields: Fields) -> Columns:
    """The columns of a row, by `format` and `fields`. Raises Unusable where there is none for the problem."""
    named = {key: (value,) if isinstance(value, str) else tuple(value) for key, value in fields.items()}
    absent = [column for columns in named.values() for column in columns if column not in row]
    if absent:
        raise Unusable("missing field", f"no column {', '.join(absent)}")
    taken = {column for columns in named.values() for column in columns}
    lower = {str(column).lower().strip(): column for column in reversed(list(row)) if column not in taken}

    def usual(ours: str) -> tuple[str, ...]:
        if ours in named:
            return named[ours]
        return tuple(lower[name] for name in COLUMNS[ours] if name in lower)[:1]

    answer, key = (next(iter(usual(ours)), None) for ours in ("answer", "id"))
    turns = next((lower[TURNS[f]] for f in (format, *TURNS) if f in TURNS and TURNS[f] in lower), None)
    if format in TURNS or (format == "auto" and turns and "problem" not in named and not usual("problem")):
        if not turns or not isinstance(row[turns], list):
            raise Unusable("missing field", f"no column {TURNS.get(format, 'messages')} with a list of turns")
        return Columns((), named.get("chain", ()), answer, key, turns)
    problem = usual("problem")
    if format == "alpaca" or (format == "auto" and not problem and "instruction" in lower):
        wanted = [lower[name] for name in ("instruction", "input") if name in lower]
        if not wanted:
            raise Unusable("missing field", "no column instruction")
        chain = named.get("chain") or tuple(lower[name] for name in ("output",) if name in lower) or usual("chain")
        return Columns(named.get("problem") or tuple(wanted), chain, answer, key)
    if not problem:
        raise Unusable("missing field", f"no column {' or '.join([*COLUMNS['problem'], 'instruction', 'messages'])}")
    return Columns(problem, usual("chain"), answer, key)


def read_record(row: Mapping[str, Any], columns: Columns) -> Record:
    """What a row says by its columns. Raises Unusable with the reason why it cannot be used."""
    system, chains = "", list[str]()
    for column in columns.chain:
        values = row[column] if isinstance(row[column], list | tuple) else [row[column]]
        chains += [chain for value in values if (chain := read_text(value, "chain", column))]
    if columns.turns:
        system, problem, last = _conversation(row[columns.turns], columns.turns)
        chains = chains or [last] * bool(last)
    elif len(columns.problem) == 1 and isinstance(row[columns.problem[0]], list):
        system, problem, last = _conversation(row[columns.problem[0]], columns.problem[0])
        chains = chains or [last] * bool(last)
    else:
        parts = [read_text(row[column], "problem", column) for column in columns.problem]
        problem = "\n\n".join(part for part in parts if part)
    if not problem:
        raise Unusable("empty problem", f"column {columns.turns or ' and '.join(columns.problem)}")
    answer = read_text(row.get(columns.answer), "answer", columns.answer) if columns.answer else ""
    if answer.lower().rstrip(".") in NO_ANSWER:
        raise Unusable("no checkable answer", f"column {columns.answer}: {answer}")
    inside = after_hashes(answer) or last_boxed(answer)
    if inside is not None:  # GSM8K keeps the chain and `#### n` in one column
        chains = chains or [answer] * (len(answer) > len(inside) + 10)
        answer = inside
    try:
        key = read_text(row.get(columns.id), "id", columns.id) if columns.id else ""
    except Unusable:
        key = ""
    return Record(problem, system, tuple(dict.fromkeys(chains)), answer, key)


def answer_of(chain: str) -> str:
    """The answer that a chain states in a box or behind ####, empty where it states none."""
    return last_boxed(chain) or after_hashes(chain) or ""


def _conversation(turns: Any, column: str) -> tuple[str, str, str]:
    """System message, user message and answer of a conversation of one turn. Raises Unusable for any other."""
    messages = [_message(turn, column) for turn in turns]
    system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else ""
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["user", "assistant"]):
        users = roles.count("user")
        if users > 1:
            raise Unusable("several turns", f"column {column}: {users} user messages, of which one alone says little")
        raise Unusable("problem is not text", f"column {column}: its roles are {', '.join(roles)[:80] or 'none'}")
    return system, messages[0]["content"].strip(), messages[1]["content"].strip() if len(messages) > 1 else ""


def _message(turn: Any, column: str) -> Message:
    """A turn in either spelling: role and content, or from and value."""
    if not isinstance(turn, Mapping):
        raise Unusable("problem is not text", f"column {column}: a list of {type(turn).__name__}, not of messages")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        content = "\n".join(part["text"] for part in content)
    return Message(role=ROLES.get(str(role).lower(), str(role).lower()), content=read_text(content, "problem", column))


def read_text(value: Any, ours: str, column: str | None) -> str:
    """A cell as text; whole floats lose their `.0`. Raises Unusable for what is none."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unusable(f"{ours} is not text", f"column {column}: {type(value).__name__} instead of text")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Unusable(f"{ours} is not text", f"column {column}: {value} instead of text")
        value = int(value) if value.is_integer() else value
    text = str(value)
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise Unusable("not UTF-8", f"column {column}: save the file as UTF-8, or set encoding, such as cp1252")
    return text.strip()


Condition = Any  # a value, a list of values, or a mapping with not, at_least, at_most


def failed_condition(row: Mapping[str, Any], where: Mapping[str, Condition]) -> str:
    """The first condition of `where` that a row does not meet, in words; empty where it meets all."""
    for column, condition in where.items():
        if column not in row:
            return f"no column {column}"
        value = row[column]
        rules = condition if isinstance(condition, Mapping) else {"is": condition}
        for rule, wanted in rules.items():
            if not _meets(value, rule, wanted):
                return f"{column} is {str(value)[:60]!r}, wanted: {rule.replace('_', ' ')} {wanted}"
    return ""


def _meets(value: Any, rule: str, wanted: Any) -> bool:
    if rule in ("is", "not"):
        listed = wanted if isinstance(wanted, list | tuple) else [wanted]
        return (value in listed or str(value) in map(str, listed)) == (rule == "is")
    try:
        number = float(value)
    except (TypeError, ValueError):
        return False
    return number >= float(wanted) if rule == "at_least" else number <= float(wanted)


def check_where(where: Mapping[str, Condition]) -> None:
    """Raise UserError for a rule that does not exist."""
    for column, condition in where.items():
        for rule in condition if isinstance(condition, Mapping) else ():
            if rule not in ("is", "not", "at_least", "at_most"):
                raise UserError(f"where.{column} has '{rule}'; there are is, not, at_least, at_most")
