r"""Finds out what the columns of a file mean: which hold the problem, its chains and its answer.

| format | problem | chain |
|---|---|---|
| plain | a column with one of the usual names (COLUMNS), in any case and with any blanks and signs | another |
| sharegpt | the human turn of `conversations` | the gpt turn |
| openai | the user turn of `messages` | the assistant turn |
| alpaca | instruction and input | output |
| verl | `prompt`, a list with one user turn, and `reward_model.ground_truth` | none |

The first format that fits is taken. A row may hold several chains, in a list or in several columns: candidate chains of
one problem. A problem is never shortened: a row that would lose a turn or a system message is dropped with the reason.
"""

import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from limo.data import Message
from limo.errors import UserError
from limo.marks import after_hashes, last_boxed

Fields = Mapping[str, str | Sequence[str]]  # our name -> column or columns

COLUMNS = {
    "problem": ("problem", "question", "prompt", "query"),
    "chain": (
        *("solution", "generated_solution", "response", "chain", "completion", "reasoning", "worked", "rationale"),
        *("output", "generations"),
    ),
    "answer": (
        *("answer", "final_answer", "correct_answer", "expected_answer", "gold_answer", "golden_answer", "gold"),
        *("ground_truth", "answer_key", "reference_answer", "target_answer", "true_answer"),
        *("final", "gt", "reference", "target", "ans"),
    ),
    "id": ("id", "unique_id", "uuid"),
    "thought": (),  # a chain of thought, put before each chain as <think> ... </think>
}
MORE_CHAINS = re.compile(r"generations|r1solution\d")  # further columns of chains, as in OpenR1-Math and DeepMath
# Published sets whose column names mislead: the columns that identify a set, and what they mean
LAYOUTS = (
    (
        {"thinkingtrajectories", "attempt", "solution"},  # s1K
        {"answer": "solution", "chain": "attempt", "thought": "thinkingtrajectories"},
    ),
    (
        {"deepseekthinkingtrajectory", "deepseekattempt", "solution"},  # s1K-1.1
        {"answer": "solution", "chain": "deepseekattempt", "thought": "deepseekthinkingtrajectory"},
    ),
)
CERTAIN = 12  # the first names of an answer, which mean nothing else: if two such columns differ, a person must choose
PERHAPS = "label correct result expected".split()  # names that may mean an answer
COMPARED, AGREE = 20, 0.5  # rows in which other columns are compared with the chains' answers; fraction that must agree
ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant"}
# Placeholders for a missing answer
NO_ANSWER = {"proof", "notfound", "not found", "see solution", "see the solution"}
NO_ANSWER |= {"n/a", "null", "nan", "tbd", "todo", "?", "-", "--", "not available", "unknown", "none"}


class Unusable(Exception):
    """Raised for a row that cannot be used: reason and detail."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a row hold the problem, the chains, the answer and the rest."""

    problem: tuple[str, ...]  # joined by an empty line
    chain: tuple[str, ...]  # each is a chain, or a list of chains
    answer: str | None
    id: str | None
    turns: str | None = None  # the column of a conversation, in place of problem and chain
    thought: str | None = None  # the column of the chain of thought that comes before each chain
    system: str | None = None  # the column of a system message beside a conversation
    rivals: tuple[str, ...] = ()  # other columns whose names say that they hold the answer

    @property
    def used(self) -> set[str]:
        """The names of all columns that are read."""
        return {
            *self.problem,
            *self.chain,
            *filter(None, (self.answer, self.id, self.turns, self.thought, self.system)),
        }

    def with_chain(self, chain: str) -> "Columns":
        """The columns, with the answer column as the chain too if answers contain `####`, as in GSM8K, where the chain
        stands before it.
        """
        return replace(self, chain=(self.answer,)) if chain and self.answer and not (self.chain or self.turns) else self

    def describe(self, others: Iterable[str]) -> str:
        """The mapping in one line, with the columns that become notes or are ignored."""
        problem = f"the user turn of {self.turns}" if self.turns else " + ".join(self.problem)
        chain = f"the assistant turn of {self.turns}" if self.turns else " and ".join(self.chain) or "none"
        chain = f"{self.thought} before {chain}" if self.thought else chain
        answer = self.answer or "what the chain ends with (unchecked)"
        rest = ", ".join(sorted(others)) or "none"
        return f"problem = {problem}, chain = {chain}, answer = {answer}; other columns, kept as notes if short: {rest}"


@dataclass(frozen=True, slots=True)
class Record:
    """The values of one row, under the toolkit's names."""

    problem: str
    system: str  # the row's own system message
    chains: tuple[str, ...]  # candidate chains; may be empty
    answer: str  # empty if only the chains hold an answer
    id: str


def find_columns(row: Mapping[str, Any], fields: Fields) -> Columns:
    """The columns of a row, by `fields` or the usual names. Raises Unusable if no column holds the problem.

    `answer: []` means that no column holds the answer. Raises UserError for two columns of one name.
    """
    named = {key: (value,) if isinstance(value, str) else tuple(value) for key, value in fields.items()}
    taken = {column for columns in named.values() for column in columns}
    if absent := sorted(taken - row.keys()):
        raise Unusable("missing field", f"no column {', '.join(absent)}")
    lower = dict[str, str]()
    for column in row:
        if column not in taken and lower.setdefault(fold(column), column) != column and fold(column) in USUAL:
            raise UserError(f"two columns are called '{lower[fold(column)]}' and '{column}': say which, fields={{...}}")

    for together, meaning in LAYOUTS:
        if together <= lower.keys():
            named = {ours: (lower[column],) for ours, column in meaning.items()} | named

    def usual(ours: str) -> tuple[str, ...]:
        return named[ours] if ours in named else tuple(lower[name] for name in FOLDED[ours] if name in lower)[:1]

    problem = usual("problem")
    answer, key, thought = (next(iter(usual(ours)), None) for ours in ("answer", "id", "thought"))
    turns = next((lower[name] for name in ("conversations", "messages") if name in lower), None)
    if turns and not problem:
        if not isinstance(row[turns], list):
            raise Unusable("missing field", f"no list of turns in the column {turns}")
        return Columns((), named.get("chain", ()), answer, key, turns, system=lower.get("system"))
    if not problem and "instruction" in lower:
        problem = tuple(lower[name] for name in ("instruction", "input") if name in lower)
    if not problem:
        raise Unusable("missing field", f"no column {' or '.join([*COLUMNS['problem'], 'instruction', 'messages'])}")
    others = () if "answer" in named else tuple(lower[name] for name in FOLDED["answer"][:CERTAIN] if name in lower)
    chain = usual("chain")
    if "chain" not in named:
        chain = tuple(dict.fromkeys((*chain, *(lower[name] for name in lower if MORE_CHAINS.fullmatch(name)))))
    rivals = tuple(name for name in others if name != answer)
    return Columns(problem, chain, answer, key, rivals=rivals, thought=thought)


def unfold(row: Any) -> Any:
    """Make verl's reference, which is nested in the column `reward_model`, a separate column."""
    inner = row.get("reward_model") if isinstance(row, dict) and "ground_truth" not in row else None
    return (
        {**row, "ground_truth": inner["ground_truth"]} if isinstance(inner, dict) and "ground_truth" in inner else row
    )


@lru_cache(maxsize=2**14)
def fold(name: Any) -> str:
    """Normalise a column's name: "Final Answer" and finalAnswer become final_answer."""
    return re.sub(r"[\W_]+", "", str(name).casefold())


FOLDED = {ours: tuple(map(fold, names)) for ours, names in COLUMNS.items()}
USUAL = frozenset(name for names in FOLDED.values() for name in names)


@dataclass
class Suspects:
    """Finds columns that may hold the answer, for rows whose reference was read from the chain."""

    rows: int = 0
    agreeing: Counter[str] = field(default_factory=Counter)

    def compare(self, answer: str, notes: Mapping[str, Any]) -> None:
        """Compare a row's reference with its other columns. Raises UserError if one of them seems to be the answer."""
        named = next((n for n, value in notes.items() if fold(n) in PERHAPS and not isinstance(value, bool)), None)
        self.rows += 1
        self.agreeing.update(
            name for name, value in notes.items() if name not in OURS and comparable(value) == comparable(answer)
        )
        most = self.agreeing.most_common(1)
        agrees = self.rows == COMPARED and most and most[0][1] >= AGREE * self.rows
        if found := named or (most[0][0] if agrees else None):
            raise UserError(
                f"is the column '{found}' the answer? If it is, set fields={{answer: {found}}}. If "
                "not, set fields={answer: []}: then each reference is read from its own chain, so wrong chains are not "
                "found"
            )


OURS = ("file", "row", "unchecked")  # notes that are not columns of the file


def comparable(value: Any) -> str:
    """Normalise a value for comparison: 2.0 becomes 2, and signs around a number are removed."""
    text = re.sub(r"[\s$,]+|\.0+$", "", str(value).casefold())
    return text.removesuffix(".")


def read_record(row: Mapping[str, Any], columns: Columns) -> Record:
    """Read the values of a row. Raises Unusable, with the reason, if the row cannot be used."""
    system, last, chains = "", "", list[str]()
    for column in columns.chain:
        values = row[column] if isinstance(row[column], list | tuple) else [row[column]]
        chains += [chain for value in values if (chain := cell_text(value, "chain", column))]
    if columns.thought:
        thoughts = row[columns.thought] if isinstance(row[columns.thought], list | tuple) else [row[columns.thought]]
        before = [cell_text(thought, "thought", columns.thought) for thought in thoughts]
        chains = [f"<think>\n{thought}\n</think>\n\n{chain}" for thought, chain in zip(before, chains, strict=False)]
    turns = columns.turns or (columns.problem[0] if len(columns.problem) == 1 else "")
    if isinstance(row.get(turns), list):
        system, problem, last = _conversation(row[turns], turns)
        system = system or (cell_text(row[columns.system], "system", columns.system) if columns.system else "")
    else:
        parts = [cell_text(row[column], "problem", column) for column in columns.problem]
        problem = "\n\n".join(part for part in parts if part)
    chains = chains or [last] * bool(last)
    if not problem:
        raise Unusable("empty problem", f"column {columns.turns or ' and '.join(columns.problem)}")
    answer = cell_text(row.get(columns.answer), "answer", columns.answer) if columns.answer else ""
    if answer.lower().rstrip(".") in NO_ANSWER:
        raise Unusable("no checkable answer", f"column {columns.answer}: {answer}")
    for rival in columns.rivals:
        other = row[rival]
        if isinstance(other, str | int | float) and comparable(_inside(str(other))) != comparable(_inside(answer)):
            both = f"{columns.answer} is {answer[:60]!r}, {rival} is {str(other)[:60]!r}"
            raise Unusable("two answers", f"{both}: say which, fields={{answer: ...}}")
    inside = after_hashes(answer) or last_boxed(answer)
    if inside is not None:  # GSM8K keeps the chain and `#### n` in one column
        chains = chains or [answer] * (len(answer) > len(inside) + 10)
        answer = inside
    try:
        key = cell_text(row.get(columns.id), "id", columns.id) if columns.id else ""
    except Unusable:
        key = ""
    return Record(problem, system, tuple(dict.fromkeys(chains)), answer, key)


def _inside(text: str) -> str:
    return after_hashes(text) or last_boxed(text) or text


def _conversation(turns: Any, column: str) -> tuple[str, str, str]:
    """Read system message, user message and reply of a conversation with one turn. Raises Unusable for any other
    conversation.
    """
    messages = [_message(turn, column) for turn in turns]
    system = messages.pop(0)["content"] if messages and messages[0]["role"] == "system" else ""
    roles = [message["role"] for message in messages]
    if roles not in (["user"], ["user", "assistant"]):
        users = roles.count("user")
        if users > 1:
            raise Unusable(
                "several turns", f"column {column}: {users} user messages; a problem is one, so cut the others off"
            )
        raise Unusable("problem is not text", f"column {column}: its roles are {', '.join(roles)[:80] or 'none'}")
    return system, messages[0]["content"].strip(), messages[1]["content"].strip() if len(messages) > 1 else ""


def _message(turn: Any, column: str) -> Message:
    """Read a message with the keys role and content, or from and value."""
    if not isinstance(turn, Mapping):
        raise Unusable("problem is not text", f"column {column}: a list of {type(turn).__name__}, not of messages")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        content = "\n".join(part["text"] for part in content)
    return Message(role=ROLES.get(str(role).lower(), str(role).lower()), content=cell_text(content, "problem", column))


def cell_text(value: Any, ours: str, column: str | None) -> str:
    """Convert a cell to text; whole floats lose their `.0`. Raises Unusable for a cell that is neither text nor a
    number.
    """
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


def _is_among(value: Any, wanted: Any) -> bool:
    listed = wanted if isinstance(wanted, list | tuple) else [wanted]
    return value in listed or str(value) in map(str, listed)


def _compare(value: Any, wanted: Any, sign: Callable[[float, float], bool]) -> bool:
    try:
        return sign(float(value), float(wanted))
    except (TypeError, ValueError):
        return False


RULES: dict[str, Callable[[Any, Any], bool]] = {
    "is": _is_among,
    "not": lambda value, wanted: not _is_among(value, wanted),
    "at_least": lambda value, wanted: _compare(value, wanted, operator.ge),
    "at_most": lambda value, wanted: _compare(value, wanted, operator.le),
}


def failed_condition(row: Mapping[str, Any], where: Mapping[str, Any]) -> str:
    """Describe the first condition of `where` that a row fails; empty if it meets all."""
    for column, condition in where.items():
        if column not in row:
            return f"no column {column}"
        for rule, wanted in (condition if isinstance(condition, Mapping) else {"is": condition}).items():
            if not RULES[rule](row[column], wanted):
                return f"{column} is {str(row[column])[:60]!r}, wanted: {rule.replace('_', ' ')} {wanted}"
    return ""


def check_columns(fields: Fields, where: Mapping[str, Any]) -> None:
    """Raise UserError for an unknown name in `fields`, or an unknown rule in `where`."""
    if unknown := sorted(set(fields) - set(COLUMNS)):
        raise UserError(f"fields has '{unknown[0]}'; it may name {', '.join(COLUMNS)}")
    for column, condition in where.items():
        for rule in condition if isinstance(condition, Mapping) else ():
            if rule not in RULES:
                raise UserError(f"where.{column} has '{rule}'; there are {', '.join(RULES)}")
