"""What a training has to work through: its settings, the lengths of its rows, its steps, how full they keep devices."""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limo.batches import cost, forwards_needed, passes, steps_of
from limo.data import read_jsonl
from limo.errors import UserError
from limo.model import load_tokenizer, tokenizer_folder
from limo.parallel import chunked
from limo.tokenised import BATCH, is_parquet, read_parquet

SAMPLE = 2000  # rows whose lengths say how evenly steps fill the devices


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows to train on, in tokens."""

    count: int
    mean: float  # tokens of a row
    longest: int
    attended: float  # length of the row that a token stands in, on average: above the mean where lengths differ
    lengths: tuple[int, ...]  # of a sample of rows, for how evenly they fill the devices


@dataclass(frozen=True, slots=True)
class Training:
    """What the plan needs of a recipe's train section."""

    model: str
    dtype: str
    bf16: bool
    data: str
    max_length: int
    global_batch: int
    packing: int | None
    rows: int  # chains in a forward pass where they are padded
    lora: Mapping[str, Any] | None
    quantize: str | None
    attention: str
    checkpointing: bool
    optim: str
    epochs: float
    max_steps: int
    save_strategy: str
    save_steps: float
    save_total_limit: int | None
    chat_template: str | None
    trust_remote_code: bool

    @classmethod
    def read(cls, train: Mapping[str, Any]) -> "Training":
        """From the section, with TRL's defaults for what `args` leaves out. Raises UserError for a missing key."""
        for key in ("model", "dtype", "data", "max_length", "global_batch", "args"):
            if key not in train:
                raise UserError(f"train_plan.train.{key} is missing: give the whole train section, train: ${{train}}")
        args = train["args"]
        kept = args.get("activation_checkpointing")
        found = cls(
            model=train["model"],
            dtype="bfloat16" if train.get("quantize") else train["dtype"],
            bf16=bool(args.get("bf16") or args.get("fp16")),
            data=train["data"],
            max_length=train["max_length"],
            global_batch=train["global_batch"],
            packing=train.get("packing"),
            rows=int(args.get("per_device_train_batch_size", 8)),
            lora=train.get("lora"),
            quantize=train.get("quantize"),
            attention=train.get("attention", "auto"),
            checkpointing=bool(args.get("gradient_checkpointing", True) if kept is None else kept),
            optim=str(args.get("optim", "adamw_torch_fused")),
            epochs=float(args.get("num_train_epochs", 3)),
            max_steps=int(args.get("max_steps", -1)),
            save_strategy=str(args.get("save_strategy", "steps")),
            save_steps=float(args.get("save_steps", 500)),
            save_total_limit=args.get("save_total_limit"),
            chat_template=train.get("chat_template"),
            trust_remote_code=bool(train.get("trust_remote_code", False)),
        )
        for name, value in (("global_batch", found.global_batch), ("args.per_device_train_batch_size", found.rows)):
            if value < 1:
                raise UserError(f"train.{name} must be 1 or more, not {value}")
        return found

    def forwards(self, rows: Rows, devices: int) -> int:
        """Forward passes of one optimizer step on each device."""
        if self.packing:
            return math.ceil(self.global_batch * rows.mean / (self.packing * devices))
        return self.global_batch // (self.rows * devices)


def steps(*, rows: int, global_batch: int, epochs: float, max_steps: int = -1) -> int:
    """Optimizer steps of a training; the last of an epoch takes what is left. `max_steps` above 0 decides alone."""
    return max_steps if max_steps > 0 else math.ceil(epochs * math.ceil(rows / global_batch))


def rows_of(training: Training, rows: int | None, mean_tokens: float | None) -> Rows:
    """As given, or as `train.data` has them; rows that training would set aside are not counted.

    Raises UserError if the data is not there yet, or holds no row that can be trained on.
    """
    if rows is not None and mean_tokens is not None:
        return Rows(rows, mean_tokens, training.max_length, mean_tokens, _drawn(training, rows, mean_tokens))
    if not Path(training.data).expanduser().is_file():
        raise UserError(
            f"there is no '{training.data}' yet: curate first, or give train_plan.rows= and train_plan.mean_tokens="
        )
    from limo.render import set_template
    from limo.rows import prepare

    tokenizer = load_tokenizer(tokenizer_folder(training.model), training.trust_remote_code, template=False)
    set_template(tokenizer, training.chat_template)
    lengths = [
        length
        for some in chunked((read_parquet if is_parquet(training.data) else read_jsonl)(training.data), BATCH)
        for length in prepare(tokenizer, some, training.max_length).lengths
    ]
    if not lengths:
        raise UserError(f"{training.data} holds no row that can be trained on: curate first, or raise train.max_length")
    mean = mean_tokens or sum(lengths) / len(lengths)
    attended = mean if mean_tokens else sum(n * n for n in lengths) / sum(lengths)
    return Rows(rows or len(lengths), mean, max(lengths), attended, tuple(lengths[:SAMPLE]))


def _drawn(training: Training, rows: int, mean: float) -> tuple[int, ...]:
    """Lengths of rows of which only the mean is known: log-normal with a deviation of 0.6, as chains often are."""
    source, middle = random.Random(0), math.log(mean) - 0.6**2 / 2
    most = min(training.max_length, training.packing or training.max_length)
    return tuple(max(1, min(most, round(source.lognormvariate(middle, 0.6)))) for _ in range(min(rows, SAMPLE)))


def busy(training: Training, lengths: Sequence[int], devices: int) -> float:
    """The share of all devices' time that goes into tokens: the rest is padding, and waiting for the fullest device."""
    tokens, forwards = training.packing, training.global_batch // (training.rows * devices)
    steps = steps_of(len(lengths), training.global_batch, 0, 0)
    if tokens:
        forwards = forwards_needed(lengths, iter(steps), devices, tokens)
    spent = sum(
        max(cost(group, lengths, tokens) for group in groups)
        for step in steps
        for groups in passes(step, lengths, devices, forwards, training.rows, tokens)
    )
    return sum(lengths) / (devices * spent)


def tokens_per_step(training: Training, data: Rows) -> float:
    """Tokens of an average step: the last step of an epoch is smaller."""
    return data.mean * data.count / math.ceil(data.count / training.global_batch)
