"""Estimates the cost of a training before it runs: parameters, memory, operations and seconds, by arithmetic.

No weights are read: parameters are counted in a model built from its config on torch's meta device. Memory is counted
as torch 2.13, accelerate 1.15 and DeepSpeed 0.19 allocate it. Seconds follow from the operations and the given speed.
Used by `limo plan`, `limo check` and a tournament's dry run.

Left out: network time, padding, offload to the CPU, allocator fragments, and models split by layer or matrix.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limo.console import say
from limo.errors import MissingModel, UserError
from limo.machine import quiet_deepspeed
from limo.model import load_tokenizer, tokenizer_folder
from limo.training.settings import Supervised, Training

GPUS = {  # memory in bytes, and dense bfloat16 operations per second, by the vendors' data sheets
    **{"B200": (180e9, 2250e12), "H200": (141e9, 989e12), "H100": (80e9, 989e12), "H100-PCIe": (80e9, 756e12)},
    **{"A100-80": (80e9, 312e12), "A100-40": (40e9, 312e12), "L40S": (48e9, 362e12), "A6000": (48e9, 155e12)},
    **{"A10": (24e9, 125e12), "L4": (24e9, 121e12), "RTX4090": (24e9, 165e12), "RTX3090": (24e9, 71e12)},
    **{"MI300X": (192e9, 1307e12)},
}
SHARDINGS = ("ddp", "zero2", "zero3", "fsdp2")  # the simplest first
STATES = {"lion_8bit": 1.0, "8bit": 2.0, "lion": 4.0, "rmsprop": 4.0, "adagrad": 4.0, "sgd": 0.0, "adafactor": 0.0}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
GATHERED = 500_000_000  # parameters that DeepSpeed keeps gathered because they are needed again soon
SUB_GROUP = 1_000_000_000  # parameters that ZeRO-3 updates at a time
TILE = 4096 * 32768  # logits in one tile of TRL's fused head
ROOM = 0.9  # share of a GPU's memory that may be planned for
NODE = 8  # GPUs in one machine


@dataclass(frozen=True)
class Size:
    """The size of a model: its numbers of parameters and its dimensions."""

    parameters: int  # with adapters
    trainable: int
    active: int  # parameters that a token is multiplied with: no embedding, and of experts only those used for a token
    layer: int  # of the largest layer, or of the head
    layers: int
    hidden: int
    attention: int  # width of all heads together
    intermediate: int  # width of the MLP, or of all experts used for a token


@dataclass(frozen=True)
class Data:
    """The training data: number of rows and their tokens."""

    rows: int
    mean: float
    longest: int
    attended: float  # length of a token's row, averaged over tokens


@dataclass(frozen=True)
class Work:
    """A training whose cost is estimated."""

    settings: Training
    size: Size
    data: Data

    @property
    def pack_tokens(self) -> int | None:
        """The number of tokens of a packed row."""
        return self.settings.pack_tokens if isinstance(self.settings, Supervised) else None

    @property
    def mixed(self) -> bool:
        """Whether training uses mixed precision: float32 weights, and matrix products in 16 bits."""
        return bool(self.settings.args.get("bf16") or self.settings.args.get("fp16"))

    @property
    def checkpointing(self) -> bool:
        """Whether layers are computed again in the backward pass."""
        again = self.settings.args.get("activation_checkpointing")
        return bool(self.settings.args.get("gradient_checkpointing", True) if again is None else again)

    @property
    def states(self) -> float:
        """The bytes of optimizer state per trained parameter."""
        optimizer = str(self.settings.args.get("optim", "adamw"))
        return next((size for name, size in STATES.items() if name in optimizer), 8.0)

    @property
    def steps(self) -> int:
        """The number of optimizer steps. The last step of an epoch takes what is left. A `max_steps` above 0 overrides
        the epochs.
        """
        most, per_epoch = int(self.settings.args.get("max_steps", -1)), -(-self.data.rows // self.settings.global_batch)
        return most if most > 0 else math.ceil(self.settings.args.get("num_train_epochs", 3) * per_epoch)


def measure_model(settings: Training) -> Size:
    """Count a model's parameters from its config, with adapters where the recipe asks for them."""
    quiet_deepspeed()
    import torch
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from limo.training.models import lora_config

    def count(module: Any) -> int:
        return sum(p.numel() for p in module.parameters())

    folder = tokenizer_folder(settings.model)
    try:
        config = AutoConfig.from_pretrained(folder)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
            model.tie_weights()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"cannot read the model in '{folder}': {str(error).splitlines()[0]}") from error
    text = config.get_text_config()
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    blocks = [
        b for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == text.num_hidden_layers for b in m
    ]
    if settings.lora is not None:
        try:
            with torch.device("meta"):
                model = get_peft_model(model, lora_config(settings.lora))
        except ValueError as error:
            raise UserError(f"train.lora: {str(error).splitlines()[0]}") from error
    every = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    each = getattr(text, "num_experts_per_tok", None) if every else None
    expert = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    heads, total = int(text.num_attention_heads), count(model)
    width = getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", 4 * text.hidden_size)
    return Size(
        parameters=total,
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad),
        active=total - embedding.numel() * (head is not embedding) - round(expert * (1 - each / every if each else 0)),
        layer=max([head.numel(), *map(count, blocks)]),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        attention=heads * int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        intermediate=int(width) * (each or 1),
    )


NAMED = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?)([BM])(?![a-z])", re.IGNORECASE)  # Qwen2.5-7B-Instruct


def measure_or_read_name(settings: Training) -> Size:
    """The size of a model, from its config, or from its name if the config is not available. Raises MissingModel if the
    name does not state a size.
    """
    try:
        return measure_model(settings)
    except MissingModel:
        named = NAMED.search(settings.model.rpartition("/")[2])
        if not named:
            raise
        say(f"{settings.model} is not here: {named[0]} parameters by its name, or as plan.assume.parameters says")
        parameters = float(named[1]) * (1e9 if named[2] in "bB" else 1e6)
        return size_of(parameters, settings.lora.get("r", 8) if settings.lora is not None else None)


def size_of(parameters: float, rank: int | None = None) -> Size:
    """The size of a dense model with this number of parameters and the usual proportions, for a model whose config is
    not available.

    Depth and width are those of a Llama of that size: 12 x layers x width^2 parameters and a width of 128 x layers;
    adapters of `rank` on the linear layers have 18 x rank x width parameters in each layer.
    """
    layers = max(1, round((parameters / 12 / 128**2) ** (1 / 3)))
    width, count = 128 * layers, round(parameters)
    trained = 18 * rank * width * layers if rank else count
    return Size(count, trained, count, count // layers, layers, width, width, 4 * width)


def measure_data(settings: Training, rows: int | None, mean_tokens: float | None) -> Data:
    """The training data as given, or counted in `train.data`. Rows that the training would drop are not counted."""
    if rows is not None and mean_tokens is not None:
        return Data(rows, mean_tokens, settings.max_length, mean_tokens)
    if not Path(settings.data).expanduser().exists():
        raise UserError(
            f"no such file '{settings.data}': curate first, or give plan.training.rows= and plan.training.mean_tokens="
        )
    from limo.chat import Rendered, set_template
    from limo.sources import training_rows
    from limo.training.rows import render_row

    tokenizer = load_tokenizer(tokenizer_folder(settings.model), template=False)
    set_template(tokenizer, settings.chat_template)
    found = training_rows(settings.data, settings.system)
    rendered = (render_row(tokenizer, row, settings.max_length) for row in found)
    lengths = [len(row.input_ids) for row in rendered if isinstance(row, Rendered)]
    if not lengths:
        raise UserError(f"{settings.data} has no row that can be trained on: curate first, or raise train.max_length")
    attended = mean_tokens or sum(n * n for n in lengths) / sum(lengths)
    return Data(rows or len(lengths), mean_tokens or sum(lengths) / len(lengths), max(lengths), attended)


def count_memory(work: Work, sharding: str, devices: int) -> dict[str, float]:
    """Estimate the bytes of memory on each device, by use, and their `total`.

    After ZeRO (arXiv 1910.02054, section 3). Without DeepSpeed torch updates the weights that it computes with, in
    float32 under mixed precision; DDP's buckets hold the gradients a second time. DeepSpeed computes in 16 bits and
    shards additional float32 weights. ZeRO-3 and FSDP2 also gather the layers in use.
    """
    size, mixed, loaded = work.size, work.mixed, BYTES[work.settings.dtype]
    low, trained, share = 2 if mixed else loaded, size.trainable, size.trainable / devices
    kept_as = loaded if sharding in ("ddp", "fsdp2") else low
    frozen = (size.parameters - trained) * kept_as
    buffers, step = 0.0, 0.0  # during the backward pass; during the optimizer's, where gradients become float32
    layer, states, own = min(size.layer, trained), work.states, 4 if mixed else loaded
    if sharding in ("ddp", "fsdp2"):
        parts = 1 if sharding == "ddp" else devices
        held = [(frozen + trained * own) / parts, trained * own / parts, trained * states * own / 4 / parts]
        cast = 2 * (layer if work.checkpointing else trained) * mixed
        buffers = cast + (trained * own if devices > 1 else 0) if sharding == "ddp" else 4 * size.layer * low
    elif sharding == "zero3":
        held = [frozen / devices + share * low, share * low, share * (states + (4 if low < 4 else 0))]
        buffers = (min(size.parameters, size.layer + GATHERED) + layer) * low
    else:
        held = [frozen + trained * low, share * low, share * (states + 4)]
        buffers = layer * low + share * low
    if sharding.startswith("zero"):
        step = min(share, SUB_GROUP) * (low + (4 if low < 4 else 0))
    kept = count_activations(work, loaded if sharding == "ddp" else low)
    memory = dict(zip(("weights", "gradients", "optimizer"), held, strict=True))
    buffers = max(buffers, step - kept)
    memory |= {"activations": kept, "buffers": buffers, "total": sum(held) + kept + buffers}
    return memory


def count_activations(work: Work, residual: int) -> float:
    """Estimate the bytes of activations of one forward and backward pass on a device. A number in the residual stream
    has `residual` bytes.

    After arXiv 2205.05198, section 4, for two RMS norms, rotary attention and a gated MLP, tensor by tensor as autograd
    saves them. With checkpointing the input of each layer is kept and one layer at a time is computed again. The head
    is TRL's: one tile of logits, its gradients in float32.
    """
    settings, size, data = work.settings, work.size, work.data
    tokens = work.pack_tokens or settings.rows_at_once * data.longest * (1 if isinstance(settings, Supervised) else 2)
    compute = 2 if work.mixed else BYTES[settings.dtype]
    mask = (work.pack_tokens or data.longest) * compute * (settings.attention in ("sdpa", "eager", "flex_attention"))
    norms = {(2, 2): 16, (4, 2): 26, (4, 4): 24}[max(residual, compute), compute] * size.hidden
    layer = tokens * (norms + 5 * compute * size.attention + 4 * compute * size.intermediate + mask)
    flight = tokens * 2 * (compute * size.intermediate + residual * size.hidden)
    head = tokens * size.hidden * 20 + min(tokens / 4096, 1) * TILE * compute
    head += size.layer * (4 if residual == 4 else 6) if size.trainable == size.parameters else 0
    if work.checkpointing:
        return tokens * (size.layers * residual * size.hidden + mask) + max(layer + flight, head)
    return size.layers * layer + max(flight, head)


def seconds_per_step(work: Work, speed: float) -> float:
    """Estimate the seconds of an average optimizer step at `speed` operations per second over all devices.

    6 operations for each weight and token (arXiv 2001.08361, section 2.1), 2 more when layers are computed again, 2
    less for frozen weights; attention 12 x layers x width x length for each token (arXiv 2204.02311, appendix B), half
    of it causal.
    """
    size, data, again = work.size, work.data, work.checkpointing
    weights = (6 if again else 4) * size.active + 2 * min(size.trainable, size.active)
    attention = 6 * size.layers * size.attention * data.attended * (4 / 3 if again else 1)
    return data.mean * data.rows / math.ceil(data.rows / work.settings.global_batch) * (weights + attention) / speed
