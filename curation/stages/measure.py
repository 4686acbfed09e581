"""Measures how probable the tokens of a text are under a model: by a forward pass on this machine, or by a server's
log-probabilities.

Sequences are pairs of token ids: the context, and the measured tokens. A server cannot give the entropy, which needs
the whole distribution, nor use another model than the one that it serves.
"""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import httpx2
import numpy as np

from limo.engines.connection import Keys, check_address
from limo.errors import UserError
from limo.machine import main_device
from limo.model import fingerprint, load_model, load_tokenizer, model_folder, tokenizer_folder

PIECE = 1024  # tokens whose logits are held at once: 600 MB of floats at a vocabulary of 150,000
CONNECTIONS = 16  # requests to a server at once
TRIES = 4  # of a request, with waits of 1, 2 and 4 seconds

Sequence_ = tuple[list[int], list[int]]  # ids of the context, and of the tokens that are measured


@dataclass(frozen=True, slots=True)
class TokenFit:
    """What was measured for the tokens of a sequence; each array has the shape (tokens,)."""

    nll: np.ndarray  # -log p_t in nats
    rank: np.ndarray  # of the token in the vocabulary, from 1
    entropy: np.ndarray | None = None  # of the distribution at the token's position, in nats, if requested


class Measure(Protocol):
    """Measures sequences, with entropies if requested."""

    def __call__(self, sequences: Sequence[Sequence_], entropy: bool = False) -> list[TokenFit]:
        """Measure the sequences; one result for each."""


def load_measure(
    model: str, dtype: str, batch_size: int, max_length: int, server: str | None, api_key_env: str | None
) -> tuple[Any, str, Measure]:
    """Load what measures, on this machine or a server's: (tokenizer, name of the model, function that measures).

    Raises UserError for a model that cannot be loaded, or whose context is shorter than `max_length`.
    """
    if server:
        tokenizer = load_tokenizer(tokenizer_folder(model))
        return tokenizer, *_serve(server, api_key_env)
    folder = model_folder(model)
    tokenizer, models = load_tokenizer(folder), load_replicas(folder, dtype)
    context = getattr(models[0].config.get_text_config(), "max_position_embeddings", None)
    if context is not None and max_length > context:
        raise UserError(f"max_length={max_length} is more than the {context} tokens that the model takes")
    return tokenizer, f"{fingerprint(folder)}-{dtype}", local_measure(models, batch_size)


def load_replicas(folder: Path, dtype: str) -> list[Any]:
    """Load a copy of the model on each visible GPU, or one on the CPU."""
    import torch

    devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())] or [main_device()]
    return [load_model(folder, dtype).eval().to(device) for device in devices]


def local_measure(models: Sequence[Any], batch_size: int) -> Measure:
    """Make a function that measures with copies of a model. Each copy takes batches of sequences of similar length."""
    free: SimpleQueue[Any] = SimpleQueue()
    for model in models:
        free.put(model)

    def measure(sequences: Sequence[Sequence_], entropy: bool = False) -> list[TokenFit]:
        order = sorted(range(len(sequences)), key=lambda at: -sum(map(len, sequences[at])))
        batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]

        def run(batch: list[int]) -> list[TokenFit]:
            model = free.get()
            try:
                return token_fit(model, [sequences[at] for at in batch], entropy)
            finally:
                free.put(model)

        with ThreadPoolExecutor(len(models)) as pool:
            found = dict(zip(order, (fit for made in pool.map(run, batches) for fit in made), strict=True))
        return [found[at] for at in range(len(sequences))]

    return measure


def token_fit(model: Any, sequences: Sequence[Sequence_], entropy: bool = False) -> list[TokenFit]:
    """Measure non-empty (context, ids) pairs in one padded forward pass, split into pieces that share an attention
    cache.
    """
    import torch

    texts = [[*context, *ids] for context, ids in sequences]
    width = max(map(len, texts))
    padded = torch.tensor([text + [0] * (width - len(text)) for text in texts], device=model.device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=model.device)
    found: dict[str, list[torch.Tensor]] = {name: [] for name in ("nll", "rank", *(["entropy"] if entropy else []))}
    cache, size = None, max(1, PIECE // len(texts))
    with torch.inference_mode():
        for start in range(0, width - 1, size):
            end = start + size
            seen = {"attention_mask": mask[:, :end], "past_key_values": cache}
            out = model(input_ids=padded[:, start:end], use_cache=True, **seen)
            wanted = padded[:, start + 1 : end + 1, None]
            logits, cache = out.logits[:, : wanted.shape[1]].float(), out.past_key_values
            chosen, total = logits.gather(-1, wanted), logits.logsumexp(-1, keepdim=True)
            found["nll"].append((total - chosen)[..., 0])
            found["rank"].append(1 + (logits > chosen).sum(-1))
            if entropy:
                shares = (logits - total).exp_()
                found["entropy"].append(total[..., 0] - torch.einsum("bsv,bsv->bs", shares, logits))
    values = {name: torch.cat(pieces, dim=1).cpu().numpy() for name, pieces in found.items()}
    spans = [slice(len(context) - 1, len(context) + len(ids) - 1) for context, ids in sequences]
    return [TokenFit(**{name: value[at, span] for name, value in values.items()}) for at, span in enumerate(spans)]


def _serve(server: str, api_key_env: str | None) -> tuple[str, Measure]:
    """(name of the served model, function that measures). The server must return `prompt_logprobs`, as vLLM does."""
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
            raise UserError(f"the server at {server} returns no prompt_logprobs: use a vLLM server") from None

    def measure(sequences: Sequence[Sequence_], entropy: bool = False) -> list[TokenFit]:
        assert not entropy, "refused by whoever asks a server for scores"
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(ask, sequences))

    try:
        name = str(call("GET", "models")["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise UserError(f"no model is served at {server}") from None
    return name, measure


class Kept:
    """A file of scores that were computed before, one JSON line each. An incomplete last line, left by a killed run, is
    ignored.
    """

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
            # A line end in front closes an incomplete line
            file.write("\n" + "".join(f"{json.dumps(item)}\n" for item in more.items()))
