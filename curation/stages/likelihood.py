"""How well a chain fits the student: how likely, and how surprising, the student finds its tokens.

Let the loss tokens of a chain be t = 1..T, p_t the student's probability of token t after the prompt and the tokens
before it, and r_t the rank of that token in the vocabulary (1 is the most probable). A step is a line or a sentence.

| score | definition | source | better |
|---|---|---|---|
| nll | mean of -log p_t, in nats | GRAPE, arXiv 2502.04194 | lower |
| nll_inner | the same without the first token of each step | arXiv 2604.06834 | lower |
| nll_local | mean over steps of a step's nll, given the prompt and the last `window` steps | arXiv 2510.03988 | lower |
| rsr | sum of min(r_t, 100) / sum of -log p_t, the rank-surprisal ratio | arXiv 2601.14249, eq. 7 | lower |
| ifd | nll / nll without the problem, instruction-following difficulty | arXiv 2308.12032, section 2.2 | not ranked |

One forward pass gives nll, nll_inner and rsr; ifd takes a second one, nll_local one for each step after the first few.
Prompt and chain have the token ids that training sees; the end of the turn is not counted, since it is the template's.
Without the problem (ifd), the chain follows an empty user message.

Scores are kept in the cache as they are finished, so a killed run resumes and a second run is free. Left out: models
that bring their own code, and models too large for one GPU, for which a server can return the log-probabilities.
"""

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Annotated, Any, Literal, get_args

import httpx2
import numpy as np
from pydantic import Field, PositiveInt

from curation.parallel import chunked
from curation.stage import drop, stage
from limo.chat import completion_ids, loss_text, prompt_ids, turn_end
from limo.console import progress
from limo.data import Example, Message, Row, chat, content_id
from limo.engines.connection import Keys, check_address
from limo.errors import UserError
from limo.machine import cache_folder, main_device
from limo.model import fingerprint, load_model, load_tokenizer, model_folder, tokenizer_folder
from limo.recipe import InputPath

Score = Literal["nll", "nll_inner", "nll_local", "rsr", "ifd"]
SCORES: tuple[Score, ...] = get_args(Score)
MAX_RANK = 100  # larger ranks count as this one (2601.14249, section 3)
CHUNK = 256  # rows in memory at once, sorted by length among themselves
PIECE = 1024  # tokens whose logits are held at once: 600 MB of floats at a vocabulary of 150,000
CONNECTIONS = 16  # requests to a server at once
TRIES = 4  # of a request, with waits of 1, 2 and 4 seconds
STEP = re.compile(r"(?:\A|\n)\s*(?=\S)|(?<=[.!?])[ \t]+(?=[A-Z$\\])")

Sequence_ = tuple[list[int], list[int]]  # ids of the context, and of the tokens that are measured


@dataclass(frozen=True, slots=True)
class TokenFit:
    """What the student makes of the measured tokens, both of shape (tokens,)."""

    nll: np.ndarray  # -log p_t in nats
    rank: np.ndarray  # of the token in the vocabulary, from 1


Measure = Callable[[Sequence[Sequence_]], list[TokenFit]]


@stage("pool", writes=("{scores}",), samples=True, lower=SCORES)
def add_fit(
    rows: Iterable[Example],
    /,
    *,
    model: InputPath,
    scores: Annotated[list[Score], Field(min_length=1)],
    dtype: str,
    batch_size: PositiveInt,
    max_length: int,
    window: PositiveInt = 3,
    server: str | None = None,
    api_key_env: str | None = None,
) -> Iterator[Row]:
    """Add the named scores (see the module's table) of each chain under a student.

    Args: `model` is a folder or Hub name, `dtype` of its weights, `batch_size` chains at once on each visible GPU,
    `max_length` tokens of prompt and chain together, `window` the steps that nll_local sees. With `server`, the base
    URL of a vLLM server, that server computes the log-probabilities, and of `model` only the tokenizer is loaded. A
    chain that is empty, longer than `max_length` or not finite under the model is dropped, never cut. Raises UserError
    for a model that does not load or takes fewer tokens, and for a tokenizer without offsets.
    """
    tokenizer, name, measure = load_measure(model, dtype, batch_size, max_length, server, api_key_env)
    if not tokenizer.is_fast:
        raise UserError(f"fit: the tokenizer of '{model}' has no offsets: add the tokenizer.json of a fast tokenizer")
    fit = _Fit(tokenizer, measure, tuple(scores), window)
    kept = Kept(cache_folder() / "fit" / f"{content_id(name, 16)}.jsonl")
    with progress("fit", len(rows) if isinstance(rows, Sized) else None, "chain") as advance:
        for chunk in chunked(rows, CHUNK):
            yield from _score(chunk, fit, kept, max_length)
            advance(len(chunk))


def load_measure(
    model: str, dtype: str, batch_size: int, max_length: int, server: str | None, api_key_env: str | None
) -> tuple[Any, str, Measure]:
    """(tokenizer, name of the model, how to measure with it), here or on a server. Raises UserError as `add_fit`."""
    if server:
        tokenizer = load_tokenizer(tokenizer_folder(model))
        return tokenizer, *_serve(server, api_key_env)
    folder = model_folder(model)
    tokenizer, models = load_tokenizer(folder), load_replicas(folder, dtype)
    context = getattr(models[0].config.get_text_config(), "max_position_embeddings", None)
    if context is not None and max_length > context:
        raise UserError(f"max_length is {max_length}, the model takes {context} tokens")
    return tokenizer, f"{fingerprint(folder)}-{dtype}", local_measure(models, batch_size)


def _score(chunk: Sequence[Example], fit: "_Fit", kept: "Kept", max_length: int) -> Iterator[Row]:
    """The rows of a chunk with their scores, or dropped with the reason."""
    encoded = [fit.encode(row) if row.completion.strip() else None for row in chunk]
    lengths = [len(e.prompt) + len(e.ids) if e else 0 for e in encoded]
    usable = [e for e, length in zip(encoded, lengths, strict=True) if e and e.ids and length <= max_length]
    missing = {e.key: e for e in usable if e.key not in kept.scores}
    if missing:
        kept.add(dict(zip(missing, fit.scores_of(list(missing.values())), strict=True)))
    for row, e, length in zip(chunk, encoded, lengths, strict=True):
        if e is None or not e.ids:
            yield drop(row, "no chain")
        elif length > max_length:
            yield drop(row, "too long to score", f"{length} tokens; the limit is max_length={max_length}")
        elif all(map(math.isfinite, (found := kept.scores[e.key]).values())):
            yield replace(row, scores={**row.scores, **found})
        else:
            yield drop(row, "cannot be scored", ", ".join(f"{name} {value}" for name, value in found.items()))


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A row as ids."""

    key: str  # names the scores of this row under one model
    prompt: list[int]
    ids: list[int]  # of the chain
    starts: list[int]  # positions in `ids` of the first token of each step


@dataclass(frozen=True)
class _Fit:
    """How a row becomes sequences to measure, and their measurements scores."""

    tokenizer: Any
    measure: Measure
    wanted: tuple[str, ...]
    window: int

    def encode(self, row: Example) -> _Encoded:
        prompt, text = self._context(row.prompt), loss_text(self.tokenizer, row)
        ids = completion_ids(self.tokenizer, text)
        starts = step_starts(self.tokenizer, text, ids)
        key = content_id([prompt, ids, sorted(self.wanted), self.window, starts], 16)
        return _Encoded(key, prompt, ids, starts)

    def _context(self, messages: Sequence[Message]) -> list[int]:
        # Where a template renders nothing, the end token, which separates texts in pretraining
        return prompt_ids(self.tokenizer, messages) or [turn_end(self.tokenizer)]

    def scores_of(self, rows: Sequence[_Encoded]) -> list[dict[str, float]]:
        """The wanted scores of each row; all sequences of all rows are measured together."""
        nothing = self._context(chat(""))
        asked: list[Sequence_] = []
        for row in rows:
            asked.append((row.prompt, row.ids))
            if "ifd" in self.wanted:
                asked.append((nothing, row.ids))
            if "nll_local" in self.wanted:
                asked += windows(row.prompt, row.ids, row.starts, self.window)
        measured = iter(self.measure(asked))
        return [self._scores(row, measured) for row in rows]

    def _scores(self, row: _Encoded, measured: Iterator[TokenFit]) -> dict[str, float]:
        whole = next(measured)
        found = basic_scores(whole, row.starts)
        if "ifd" in self.wanted:
            alone = float(next(measured).nll.mean())
            found["ifd"] = found["nll"] / alone if alone else math.nan
        if "nll_local" in self.wanted:
            near = [piece.mean() for piece in np.split(whole.nll, row.starts[1:])][: self.window + 1]
            far = [next(measured).nll.mean() for _ in row.starts[self.window + 1 :]]
            found["nll_local"] = float(np.mean([*near, *far]))
        return {name: round(found[name], 6) for name in self.wanted}


def basic_scores(tokens: TokenFit, starts: Sequence[int]) -> dict[str, float]:
    """nll, nll_inner and rsr of one chain; `starts` are the positions of the first token of each step.

    >>> made = TokenFit(np.array([2.0, 1.0, 3.0]), np.array([4, 1, 500]))
    >>> basic_scores(made, [0])
    {'nll': 2.0, 'nll_inner': 2.0, 'rsr': 17.5}
    """
    inner = np.delete(tokens.nll, list(starts))
    surprise = float(tokens.nll.sum())
    return {
        "nll": float(tokens.nll.mean()),
        "nll_inner": float((inner if len(inner) else tokens.nll).mean()),
        "rsr": float(np.minimum(tokens.rank, MAX_RANK).sum()) / surprise if surprise else math.nan,
    }


def windows(prompt: list[int], ids: list[int], starts: Sequence[int], window: int) -> list[Sequence_]:
    """The prompt with the `window` steps before it, and a step's own ids, for each step that more steps precede.

    The first `window + 1` steps are left out: their window is all that precedes them, as in the pass over the chain.
    """
    spans = list(zip(starts, [*starts[1:], len(ids)], strict=True))
    return [
        ([*prompt, *ids[starts[number - window] : start]], ids[start:end])
        for number, (start, end) in enumerate(spans)
        if number > window
    ]


def step_starts(tokenizer: Any, text: str, ids: Sequence[int]) -> list[int]:
    """The positions of the tokens with which the steps of a text begin; the first is always 0.

    A text that spells a control token is encoded in pieces and has no offsets: it counts as one step.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if list(encoded["input_ids"]) != list(ids):
        return [0]
    places = [match.end() for match in STEP.finditer(text)]
    ends = np.array([end for _, end in encoded["offset_mapping"]])
    return sorted({0, *(int(np.searchsorted(ends, place, side="right")) for place in places if place < len(text))})


def load_replicas(folder: Path, dtype: str) -> list[Any]:
    """The model once on each visible GPU, or once on the CPU."""
    import torch

    devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())] or [main_device()]
    return [load_model(folder, dtype).eval().to(device) for device in devices]


def local_measure(models: Sequence[Any], batch_size: int) -> Measure:
    """Measure sequences with copies of a model, each copy a batch of about equal lengths at a time."""
    free: SimpleQueue[Any] = SimpleQueue()
    for model in models:
        free.put(model)

    def measure(sequences: Sequence[Sequence_]) -> list[TokenFit]:
        order = sorted(range(len(sequences)), key=lambda at: -sum(map(len, sequences[at])))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

        def run(batch: list[int]) -> list[TokenFit]:
            model = free.get()
            try:
                return token_fit(model, [sequences[at] for at in batch])
            finally:
                free.put(model)

        with ThreadPoolExecutor(len(models)) as pool:
            found = dict(zip(order, (fit for made in pool.map(run, batches) for fit in made), strict=True))
        return [found[at] for at in range(len(sequences))]

    return measure


def token_fit(model: Any, sequences: Sequence[Sequence_]) -> list[TokenFit]:
    """One padded forward pass over (context, ids) pairs, in pieces that share a cache; none may be empty."""
    import torch

    texts = [[*context, *ids] for context, ids in sequences]
    width = max(map(len, texts))
    padded = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=model.device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=model.device)
    nll, rank = [], []
    cache, size = None, max(1, PIECE // len(texts))
    with torch.inference_mode():
        for start in range(0, width - 1, size):
            end = start + size
            seen = {"attention_mask": mask[:, :end], "past_key_values": cache}
            out = model(input_ids=padded[:, start:end], use_cache=True, **seen)
            wanted = padded[:, start + 1 : end + 1, None]
            logits, cache = out.logits[:, : wanted.shape[1]].float(), out.past_key_values
            chosen = logits.gather(-1, wanted)
            nll.append((logits.logsumexp(-1, keepdim=True) - chosen)[..., 0])
            rank.append(1 + (logits > chosen).sum(-1))
    values, ranks = torch.cat(nll, dim=1).cpu().numpy(), torch.cat(rank, dim=1).cpu().numpy()
    spans = [slice(len(context) - 1, len(context) + len(ids) - 1) for context, ids in sequences]
    return [TokenFit(values[at, span], ranks[at, span]) for at, span in enumerate(spans)]


def _serve(server: str, api_key_env: str | None) -> tuple[str, Measure]:
    """(name of the served model, how to measure with it). The server must return `prompt_logprobs`, as vLLM does."""
    keys = Keys(api_key_env)
    check_address(server, bool(keys.key), allow_insecure=False)
    headers = {"Authorization": f"Bearer {keys.key}"} if keys.key else {}
    client = httpx2.Client(base_url=server, headers=headers, timeout=600)

    def call(method: str, path: str, body: Any = None) -> Any:
        for attempt in range(TRIES):
            try:
                return client.request(method, path, json=body).raise_for_status().json()
            except (httpx2.HTTPError, ValueError) as error:
                why = str(error)
            if attempt < TRIES - 1:
                time.sleep(2**attempt)
        raise UserError(f"the server at {server} does not answer: {keys.hide(why)[:300]}")

    def ask(sequence: Sequence_) -> TokenFit:
        context, ids = sequence
        body = {"model": name, "prompt": [*context, *ids], "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        try:
            listed = call("POST", "completions", body)["choices"][0]["prompt_logprobs"]
            found = [listed[len(context) + at][str(token)] for at, token in enumerate(ids)]
            return TokenFit(np.array([-f["logprob"] for f in found]), np.array([f["rank"] for f in found]))
        except (KeyError, IndexError, TypeError):
            raise UserError(f"the server at {server} returns no prompt_logprobs: vLLM does") from None

    def measure(sequences: Sequence[Sequence_]) -> list[TokenFit]:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(ask, sequences))

    try:
        name = str(call("GET", "models")["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise UserError(f"no model is served at {server}") from None
    return name, measure


class Kept:
    """Scores that were computed before, one line of JSON each; a line that a killed run left torn is ignored."""

    def __init__(self, path: Path) -> None:
        self.path, self.scores = path, dict[str, Mapping[str, float]]()
        if path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    key, found = json.loads(line)
                except ValueError:
                    continue
                self.scores[key] = found

    def add(self, more: Mapping[str, Mapping[str, float]]) -> None:
        """Keep more scores, in memory and on disk."""
        self.scores.update(more)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            # A line end in front closes a torn line
            file.write("\n" + "".join(f"{json.dumps(item)}\n" for item in more.items()))
