"""How a chain fits the student: how likely, how surprising and how uncertain the student finds its tokens.

Let the loss tokens of a chain be t = 1..T, p_t the student's probability of token t after the prompt and the tokens
before it, r_t the rank of that token in the vocabulary (1 is the most probable), and H_t the entropy of the
distribution at its position. A step is a line or a sentence.

| score | definition | source | better |
|---|---|---|---|
| nll | mean of -log p_t, in nats | GRAPE, arXiv 2502.04194 | lower |
| nll_inner | the same without the first token of each step | arXiv 2604.06834 | lower |
| nll_local | mean over steps of a step's nll, given the prompt and the last `window` steps | arXiv 2510.03988 | lower |
| rsr | sum of min(r_t, 100) / sum of -log p_t, the rank-surprisal ratio | arXiv 2601.14249, eq. 7 | lower |
| ifd | nll / nll without the problem, instruction-following difficulty | arXiv 2308.12032, section 2.2 | higher |
| hes | sum of the largest 0.5 % of H_t, at least one: High-Entropy Sum | arXiv 2605.22389 | higher |
| early | nll of the first 100 loss tokens under a student with slightly perturbed weights | arXiv 2606.26797 | higher |

One forward pass gives nll, nll_inner, rsr and hes; ifd takes a second one, nll_local one for each step after the
first few, early one of 100 tokens with a second copy of the model. Prompt and chain have the token ids that training
sees; the end of the turn is not counted, since it belongs to the template. Without the problem (ifd), the chain follows
an empty user message. The perturbation of `early` is ours: Gaussian noise of a hundredth of each weight tensor's root
mean square.

Each finished score is kept in the cache separately, so a killed run resumes, a second run is free, and an additional
score costs only its own pass. Left out: models with remote code, models too large for one GPU (a server can return
their log-probabilities), and the diversity part of 2606.26797, which takes several checkpoints.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field, PositiveInt

from curation.parallel import chunked
from curation.stage import Direction, drop, stage
from curation.stages.measure import Kept, Measure, Sequence_, TokenFit, load_measure, load_replicas, local_measure
from limo.chat import completion_ids, loss_text, prompt_ids, turn_end
from limo.console import progress
from limo.data import Example, Message, Row, chat, content_id
from limo.errors import UserError
from limo.machine import cache_folder
from limo.model import model_folder
from limo.recipe import InputPath

Score = Literal["nll", "nll_inner", "nll_local", "rsr", "ifd", "hes", "early"]
SCORES: tuple[Score, ...] = get_args(Score)
BETTER: Mapping[str, Direction] = {
    **dict.fromkeys(("nll", "nll_inner", "nll_local", "rsr"), "lower"),
    **dict.fromkeys(("ifd", "hes", "early"), "higher"),
}
HERE_ONLY = ("hes", "early")  # a server gives neither the whole distribution nor other weights
MAX_RANK = 100  # larger ranks count as this one (2601.14249, section 3)
TOP = 0.005  # share of the tokens that hes sums (2605.22389)
EARLY = 100  # first loss tokens, which early uses (2606.26797)
NOISE = 0.01  # perturbation of early, in root mean squares of a weight tensor
CHUNK = 256  # rows in memory at once, sorted by length within the chunk
STEP = re.compile(r"(?:\A|\n)\s*(?=\S)|(?<=[.!?])[ \t]+(?=[A-Z$\\])")


def _check(*, scores: Sequence[str], server: str | None = None, **_: object) -> None:
    if server and (here := [name for name in HERE_ONLY if name in scores]):
        raise UserError(f"scores: a server cannot give {', '.join(here)}: leave it out, or set server: null")


@stage("pool", writes=("{scores}",), samples=True, better=BETTER, check=_check)
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
    for a model that cannot be loaded or whose context is shorter than `max_length`, for a tokenizer without offsets,
    and for a score that a server cannot give.
    """
    _check(scores=scores, server=server)
    tokenizer, name, measure = load_measure(model, dtype, batch_size, max_length, server, api_key_env)
    if not tokenizer.is_fast:
        raise UserError(f"fit: the tokenizer of '{model}' has no offsets: add the tokenizer.json of a fast tokenizer")
    fit = _Fit(tokenizer, measure, (model, dtype, batch_size), window)
    kept = Kept(cache_folder() / "fit" / f"{content_id(name, 16)}.jsonl")
    with progress("fit", len(rows) if isinstance(rows, Sized) else None, "chain") as advance:
        for chunk in chunked(rows, CHUNK):
            yield from _score(chunk, fit, kept, scores, max_length)
            advance(len(chunk))


def _score(chunk: Sequence[Example], fit: "_Fit", kept: Kept, names: Sequence[str], max_length: int) -> Iterator[Row]:
    """Compute the scores of a chunk of rows. Rows that cannot be scored are dropped with the reason."""
    encoded = [fit.encode(row) if row.completion.strip() else None for row in chunk]
    lengths = [len(e.prompt) + len(e.ids) if e else 0 for e in encoded]
    usable = [e for e, length in zip(encoded, lengths, strict=True) if e and e.ids and length <= max_length]
    wanted = [n for n in names if any(e.key(n) not in kept.scores for e in usable)]
    new = list({e.key("nll"): e for e in usable if any(e.key(n) not in kept.scores for n in wanted)}.values())
    found = fit.scores_of(new, wanted) if new else []
    kept.add({e.key(n): {n: value} for e, one in zip(new, found, strict=True) for n, value in one.items()})
    for row, e, length in zip(chunk, encoded, lengths, strict=True):
        if e is None or not e.ids:
            yield drop(row, "no chain")
        elif length > max_length:
            yield drop(row, "too long to score", f"{length} tokens; the limit is max_length={max_length}")
        else:
            scores = {n: kept.scores[e.key(n)][n] for n in names}
            if all(map(math.isfinite, scores.values())):
                yield replace(row, scores={**row.scores, **scores})
            else:
                yield drop(row, "cannot be scored", ", ".join(f"{name} {value}" for name, value in scores.items()))


@dataclass(frozen=True)
class _Encoded:
    """A row as token ids."""

    prompt: list[int]
    ids: list[int]  # of the chain
    starts: list[int]  # positions in `ids` of the first token of each step
    window: int

    def key(self, name: str) -> str:
        """The cache key of one score of this row under one model, made from everything that the score depends on."""
        steps = {"nll_inner": [self.starts], "nll_local": [self.starts, self.window]}
        return content_id([self._tokens, name, steps.get(name)], 16)

    @cached_property
    def _tokens(self) -> str:
        return content_id([self.prompt, self.ids], 16)


WHOLE: Mapping[str, Callable[[TokenFit, Sequence[int]], float]] = {  # scores from one pass over the chain
    "nll": lambda tokens, starts: float(tokens.nll.mean()),
    "nll_inner": lambda tokens, starts: _mean_inside(tokens.nll, starts),
    "rsr": lambda tokens, starts: _rank_surprisal(tokens),
    "hes": lambda tokens, starts: _high_entropy_sum(tokens),
}


def _mean_inside(nll: np.ndarray, starts: Sequence[int]) -> float:
    inner = np.delete(nll, list(starts))
    return float((inner if len(inner) else nll).mean())


def _rank_surprisal(tokens: TokenFit) -> float:
    surprise = float(tokens.nll.sum())
    return float(np.minimum(tokens.rank, MAX_RANK).sum()) / surprise if surprise else math.nan


def _high_entropy_sum(tokens: TokenFit) -> float:
    assert tokens.entropy is not None
    return float(np.sort(tokens.entropy)[-math.ceil(TOP * len(tokens.entropy)) :].sum())


@dataclass(frozen=True)
class _Fit:
    """Turns rows into sequences to measure, and the measurements into scores."""

    tokenizer: Any
    measure: Measure
    model: tuple[str, str, int]  # name, data type of the weights, rows at once: for a copy of it
    window: int

    def encode(self, row: Example) -> _Encoded:
        prompt, text = self._context(row.prompt), loss_text(self.tokenizer, row)
        ids = completion_ids(self.tokenizer, text)
        return _Encoded(prompt, ids, step_starts(self.tokenizer, text, ids), self.window)

    def _context(self, messages: Sequence[Message]) -> list[int]:
        # If a template renders nothing, the context is the end token, which separates texts in pretraining
        return prompt_ids(self.tokenizer, messages) or [turn_end(self.tokenizer)]

    @cached_property
    def _perturbed(self) -> Measure:
        """A measure that uses slightly perturbed weights, the same ones in every process."""
        import torch

        name, dtype, batch_size = self.model
        models = load_replicas(model_folder(name), dtype)
        for model in models:
            random = torch.Generator().manual_seed(0)
            with torch.no_grad():
                for weight in model.parameters():
                    noise = torch.randn(weight.shape, generator=random).to(weight.device, weight.dtype)
                    weight.add_(noise * (NOISE * weight.float().square().mean().sqrt()))
        return local_measure(models, batch_size)

    def scores_of(self, rows: Sequence[_Encoded], names: Sequence[str]) -> list[dict[str, float]]:
        """Compute the named scores of each row. The sequences of all rows are measured in the same batches."""
        whole = any(name in WHOLE or name in ("ifd", "nll_local") for name in names)
        nothing = self._context(chat(""))
        asked: list[Sequence_] = []
        for row in rows if whole else ():
            asked.append((row.prompt, row.ids))
            if "ifd" in names:
                asked.append((nothing, row.ids))
            if "nll_local" in names:
                asked += windows(row.prompt, row.ids, row.starts, self.window)
        measured = iter(self.measure(asked, entropy="hes" in names) if asked else [])
        found = [self._scores(row, measured, names) if whole else {} for row in rows]
        if "early" in names:
            first = self._perturbed([(row.prompt, row.ids[:EARLY]) for row in rows])
            found = [{**one, "early": float(fit.nll.mean())} for one, fit in zip(found, first, strict=True)]
        return [{name: round(one[name], 6) for name in names} for one in found]

    def _scores(self, row: _Encoded, measured: Iterator[TokenFit], names: Sequence[str]) -> dict[str, float]:
        whole = next(measured)
        found = {name: WHOLE[name](whole, row.starts) for name in names if name in WHOLE}
        if "ifd" in names:
            alone = float(next(measured).nll.mean())
            found["ifd"] = float(whole.nll.mean()) / alone if alone else math.nan
        if "nll_local" in names:
            near = [piece.mean() for piece in np.split(whole.nll, row.starts[1:])][: self.window + 1]
            far = [next(measured).nll.mean() for _ in row.starts[self.window + 1 :]]
            found["nll_local"] = float(np.mean([*near, *far]))
        return found


def windows(prompt: list[int], ids: list[int], starts: Sequence[int], window: int) -> list[Sequence_]:
    """For each step with more than `window` steps before it: prompt and `window` steps as context, and the step's ids.

    The first `window + 1` steps are left out. All steps before them fit into the window, so the pass over the whole
    chain gives their values.
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
