"""The engine that runs a local model with transformers: no server, CPU or one GPU.

Two things make it several times faster than a fixed-batch `generate`: finished rows of a batch give their
place to waiting requests, and the samples of one prompt share its prefill. Each sample has its own random
stream, so its text does not depend on its neighbours (up to the last bits of floating-point sums).

Not covered: speculative decoding, several GPUs (use a server), and models whose cache is not plain attention keys and
values refill only between batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limo.chat import carry_opening, prepare_prompts, prompt_ids, turn_end
from limo.engines.protocol import Completion, Finish, Request, Sampling, Take, loading, random_key, refuse
from limo.errors import UserError
from limo.model import fingerprint, load_both, model_folder
from limo.recipe import InputPath

if TYPE_CHECKING:
    import torch

REFILL = 0.25  # fraction of the batch that must be free before the cache is copied to drop and add rows
SPARE = 64  # positions a growing cache reserves ahead, so that most steps write in place
NUCLEUS = 1024  # tokens sorted first when looking for a nucleus; the whole vocabulary only if they are not enough


class TransformersEngine:
    """A causal language model of transformers behind the `Engine` protocol, loaded at the first request.

    Args: `model` as in `limo.model.model_folder`, `dtype` of the weights while sampling, `batch_size` in rows.
    """

    def __init__(self, *, model: InputPath, dtype: str, batch_size: int) -> None:
        if batch_size < 1:
            raise UserError(f"engine.batch_size must be at least 1, not {batch_size}")
        self.model, self.dtype, self.batch_size = model, dtype, batch_size

    @cached_property
    def folder(self) -> Path:
        """The folder of the model, downloaded or converted if necessary."""
        return model_folder(self.model)

    @cached_property
    def fingerprint(self) -> str:
        """See `Engine.fingerprint`."""
        return f"transformers/{self.dtype}/{fingerprint(self.folder)}"

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        model, tokenizer = load_both(self.folder, self.dtype)
        return model.eval(), tokenizer

    def complete(self, take: Take, sampling: Sampling) -> Iterator[tuple[Request, Completion]]:
        """See `Engine.complete`. A prompt that leaves no room in the context is refused with the reason."""
        first = take(self.batch_size)
        if not first:
            return  # without loading a model
        with loading.timed():
            import torch

            model, tokenizer = self._loaded
        with torch.inference_mode():
            yield from _Decoder(model, tokenizer, sampling, self.batch_size).run(first, take)


@dataclass(slots=True, eq=False)
class _Row:
    request: Request
    prompt: list[int]
    room: int  # most tokens to generate
    random: np.random.Generator
    ids: list[int]  # generated so far
    finish: Finish | None = None
    text: str = ""
    sent: bool = False


class _Decoder:
    """Decodes rows in one running batch. Tensors: mask (rows, length), last (rows, 1), place (rows, 1)."""

    def __init__(self, model: Any, tokenizer: Any, sampling: Sampling, batch_size: int) -> None:
        self.model, self.tokenizer = model, tokenizer
        configured = model.generation_config.eos_token_id
        listed = configured if isinstance(configured, list) else [configured]
        self.ends = {int(t) for t in (*listed, tokenizer.eos_token_id, turn_end(tokenizer)) if t is not None}
        self.sampling, self.batch_size = sampling, batch_size
        self.context = int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31)
        self.plain = is_plain(model)
        self.rows: list[_Row] = []
        self.cache: Any = None
        self.mask: torch.Tensor
        self.last: torch.Tensor

    def run(self, first: Sequence[Request], take: Take) -> Iterator[tuple[Request, Completion]]:
        asked = first
        while True:
            alive = [i for i, row in enumerate(self.rows) if row.finish is None]
            free, idle = self.batch_size - len(alive), len(self.rows) - len(alive)
            if not asked and (not alive or (self.plain and free >= REFILL * self.batch_size)):
                asked = take(free)
            if not asked and not alive:
                return
            started, refused = self._encoded(asked)
            if idle and (started or not alive or idle >= REFILL * len(self.rows)):
                self._keep(alive)
            if started:
                self._start(started)
            elif self.rows:
                self._step()
            asked = ()
            yield from refused
            for row in started or self.rows:
                if row.finish and not row.sent:
                    row.sent = True
                    text = carry_opening(self.tokenizer, row.request.prompt, row.text)
                    yield row.request, Completion(text, len(row.ids), row.finish, asked=len(row.prompt))

    def _encoded(self, asked: Sequence[Request]) -> tuple[list[_Row], list[tuple[Request, Completion]]]:
        """Encode requests as new rows. Returns also the requests whose prompts leave no room for a completion."""
        rows, refused = list[_Row](), list[tuple[Request, Completion]]()
        ids: list[int] = []
        known: Any = None
        prepare_prompts(self.tokenizer, {id(request.prompt): request.prompt for request in asked}.values())
        for request in asked:
            if request.prompt is not known:  # the samples of one prompt are adjacent
                known, ids = request.prompt, prompt_ids(self.tokenizer, request.prompt)
            room = min(self.sampling.max_tokens, self.context - len(ids))
            if room < 1:
                why = f"the prompt has {len(ids)} tokens, the model takes {self.context}"
                refused.append((request, refuse(why)))
                continue
            stream = np.random.Generator(np.random.Philox(key=random_key(request, self.sampling)))
            rows.append(_Row(request, ids, room, stream, []))
        return rows, refused

    def _start(self, rows: list[_Row]) -> None:
        """Prefill each distinct prompt once, sample the first tokens, and join the running batch."""
        import torch

        shared = [list(group) for _, group in groupby(rows, key=lambda row: row.prompt)]
        device = self.model.device
        width = max(len(group[0].prompt) for group in shared)
        ids = torch.zeros(len(shared), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, group in enumerate(shared):
            ids[i, width - len(group[0].prompt) :] = torch.tensor(group[0].prompt)
            mask[i, width - len(group[0].prompt) :] = 1
        ids, mask = ids.to(device), mask.to(device)
        cache = new_cache(self.model)
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        copies = torch.tensor([i for i, group in enumerate(shared) for _ in group], device=device)
        for layer in cache.layers:
            layer.batch_select_indices(copies)
        mask = mask[copies]
        last = self._sample_next(out.logits[:, -1][copies], rows)
        if self.rows:
            cache, mask = joined(self.cache, self.mask, cache, mask)
            last = torch.cat([self.last, last])
        self.cache, self.mask, self.last = cache, mask, last
        self.rows = self.rows + rows

    def _step(self) -> None:
        import torch

        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)
        # A finished row is computed until it is dropped; its position must stay inside the context
        place = (self.mask.sum(1, keepdim=True) - 1).clamp(max=self.context - 1)
        out = self.model(
            input_ids=self.last,
            attention_mask=self.mask,
            position_ids=place,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self.last = self._sample_next(out.logits[:, -1], self.rows)

    def _keep(self, alive: list[int]) -> None:
        """Keep only these rows, without the leading columns that none of them uses."""
        import torch

        self.rows = [self.rows[i] for i in alive]
        if not alive:
            return
        index = torch.tensor(alive, device=self.mask.device)
        self.mask, self.last = self.mask[index], self.last[index]
        for layer in self.cache.layers:
            layer.batch_select_indices(index)
        unused = int(self.mask.any(0).int().argmax()) if self.plain else 0
        if unused:
            self.mask = self.mask[:, unused:]
            for layer in self.cache.layers:
                layer.set(layer.keys[:, :, unused:], layer.values[:, :, unused:])

    def _sample_next(self, logits: "torch.Tensor", rows: list[_Row]) -> "torch.Tensor":
        """Sample the next token of each row, and finish the rows that end with it. Returns (rows, 1)."""
        import torch

        # A finished row is computed until it is dropped; it consumes no random number
        uniform = torch.tensor([row.random.random() if row.finish is None else 0.0 for row in rows])
        tokens = sample_tokens(logits, uniform.to(logits.device), self.sampling.temperature, self.sampling.top_p)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if row.finish is None:
                self._append(row, token)
        return tokens[:, None]

    def _append(self, row: _Row, token: int) -> None:
        row.ids.append(token)
        if token in self.ends:
            row.finish, row.text = "stop", self._text(row.ids[:-1])
        elif (stopped := self._stopped(row)) is not None:
            row.finish, row.text = "stop", stopped
        elif len(row.ids) >= row.room:
            row.finish, row.text = "length", self._text(row.ids)

    def _stopped(self, row: _Row) -> str | None:
        """The text before the first stop string; None if no stop string has appeared."""
        if not self.sampling.stop:
            return None
        tail = self._text(
            row.ids[-max(len(stop.encode()) for stop in self.sampling.stop) - 4 :]
        )  # a token is at least a byte
        if not any(stop in tail for stop in self.sampling.stop):
            return None
        text = self._text(row.ids)
        ends = [text.find(stop) for stop in self.sampling.stop if stop in text]
        return text[: min(ends)] if ends else None

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def new_cache(model: Any) -> Any:
    """An empty cache for the model; it grows in place if the model's layers keep plain keys and values."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    if is_plain(model):
        cache.layers = [_growing() for _ in cache.layers]
    return cache


def is_plain(model: Any) -> bool:
    """Whether the cache is attention keys and values only, which can be cut, padded and joined."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def joined(old: Any, old_mask: "torch.Tensor", new: Any, new_mask: "torch.Tensor") -> tuple[Any, "torch.Tensor"]:
    """Join two caches. The shorter one is padded on the left, where the mask hides the padding."""
    import torch
    from torch.nn.functional import pad

    width = max(old_mask.shape[1], new_mask.shape[1])

    def join(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.cat([pad(t, (0, 0, width - t.shape[2], 0)) for t in (first, second)])

    for layer, other in zip(old.layers, new.layers, strict=True):
        layer.set(join(layer.keys, other.keys), join(layer.values, other.values))
    return old, torch.cat([pad(m, (width - m.shape[1], 0)) for m in (old_mask, new_mask)])


def _growing() -> Any:
    """A cache layer that writes new positions into reserved space, whereas the library's layer copies everything at
    every step.
    """
    import torch
    from transformers.cache_utils import DynamicLayer

    class Growing(DynamicLayer):  # type: ignore[misc]
        def set(self, keys: torch.Tensor, values: torch.Tensor) -> None:
            self.keys, self.values = keys, values
            self.room: tuple[torch.Tensor, torch.Tensor] | None = None
            self.is_initialized = True

        def batch_select_indices(self, indices: torch.Tensor) -> None:
            self.set(self.keys[indices], self.values[indices])

        def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self.lazy_initialization(keys, values)
                self.set(keys, values)
                return keys, values
            length, more = self.keys.shape[2], keys.shape[2]
            if self.room is None or self.room[0].shape[2] < length + more:
                shape = (*self.keys.shape[:2], length + more + SPARE, self.keys.shape[3])
                self.room = self.keys.new_empty(shape), self.values.new_empty(shape)
                self.room[0][:, :, :length], self.room[1][:, :, :length] = self.keys, self.values
            for whole, part in zip(self.room, (keys, values), strict=True):
                whole[:, :, length : length + more] = part
            self.keys, self.values = (whole[:, :, : length + more] for whole in self.room)
            return self.keys, self.values

    return Growing()


def sample_tokens(logits: "torch.Tensor", uniform: "torch.Tensor", temperature: float, top_p: float) -> "torch.Tensor":
    """Sample one token for each row of logits (rows, vocabulary), by inverting its distribution at `uniform` (rows,) in
    [0, 1).

    `top_p` below 1 keeps the smallest set of most likely tokens whose probability reaches it, renormalised.
    """
    import torch

    if temperature == 0:
        return logits.argmax(-1)
    likely = torch.softmax(logits.float() / temperature, -1)
    if top_p >= 1:
        mass = likely.cumsum(-1)
        return _invert(mass, uniform)
    for size in (min(NUCLEUS, logits.shape[-1]), logits.shape[-1]):
        ordered, tokens = likely.topk(size)
        mass = ordered.cumsum(-1)
        if bool((mass[:, -1] >= top_p).all()):
            break
    last = (mass < top_p).sum(-1, keepdim=True).clamp(max=size - 1)
    kept = torch.minimum(mass, mass.gather(1, last))
    return tokens.gather(1, _invert(kept, uniform)[:, None])[:, 0]


def _invert(mass: "torch.Tensor", uniform: "torch.Tensor") -> "torch.Tensor":
    """For each row of cumulative probabilities (rows, n), the first position that exceeds `uniform` times the total.

    If float32 rounds that product up to the total, the first position that reaches the total is taken, so a token of
    probability 0 is never sampled.
    """
    import torch

    total = mass[:, -1:].contiguous()
    picked = torch.searchsorted(mass, uniform[:, None] * total, right=True)
    return torch.minimum(picked, torch.searchsorted(mass, total))[:, 0]
