"""What a GPU is, by name, and what it holds and does of a training: the arithmetic of `limo.plan`.

Memory and speed are those of the vendors' data sheets. A gigabyte is 10^9 bytes, as there; cards show a few per cent
more or less (error correction takes some). The speed is that of dense bfloat16 matrix products with float32 sums;
sheets often print twice as much, which is for sparse ones.

What is held is counted as torch 2.13, accelerate 1.15 and DeepSpeed 0.19 really keep it, by their code.
"""

from dataclasses import dataclass

from limo.errors import UserError
from limo.recipe import near
from limo.sizes import Size

SHARDINGS = ("ddp", "zero1", "zero2", "zero3", "fsdp2", "zero2_offload", "zero3_offload")  # the simplest, fastest first
NF4 = 4.127 / 8  # bytes of a weight in four bits with its constants quantised too (QLoRA, arXiv 2305.14314, section 3)
KEPT_GATHERED = 500_000_000  # numbers: DeepSpeed frees no weight that is needed again within 1e9, there and back
SUB_GROUP = 1_000_000_000  # numbers that ZeRO-3 updates at a time
TILE = 4096 * 32768  # numbers of one tile of logits in TRL's fused head
NODE = 8  # GPUs in one machine, where there are several


@dataclass(frozen=True, slots=True)
class GPU:
    """One kind of GPU."""

    memory: float  # bytes
    peak: float  # bfloat16 FLOP/s, dense


GPUS = {
    "B200": GPU(180e9, 2250e12),
    "H200": GPU(141e9, 989e12),
    "H100": GPU(80e9, 989e12),  # SXM
    "H100-PCIe": GPU(80e9, 756e12),
    "A100-80": GPU(80e9, 312e12),
    "A100-40": GPU(40e9, 312e12),
    "L40S": GPU(48e9, 362e12),
    "A6000": GPU(48e9, 155e12),
    "A10": GPU(24e9, 125e12),
    "L4": GPU(24e9, 121e12),
    "RTX4090": GPU(24e9, 165e12),
    "RTX3090": GPU(24e9, 71e12),
    "MI300X": GPU(192e9, 1307e12),
}


def gpu(name: str) -> GPU:
    """The GPU of that name. Raises UserError if the table has none."""
    if name not in GPUS:
        raise UserError(f"train_plan.gpus: there is no '{name}'{near(name, GPUS)}")
    return GPUS[name]


@dataclass(frozen=True, slots=True)
class States:
    """Bytes that one device holds of a model being trained, activations aside."""

    weights: float
    gradients: float
    optimizer: float  # with the float32 copy of the weights, where there is one
    buffers: float = 0.0  # during forward and backward: buckets, gathered layers, gradients not yet shared out
    forward: float = 0.0  # at the end of the forward pass alone: weights that autocast has cast
    step: float = 0.0  # during the optimizer's step alone: gradients on their way into float32
    host: float = 0.0  # bytes of CPU memory, for each device

    def total(self, activations: "Activations") -> float:
        """Bytes on the device at its fullest: what always stays, and the worst of the three moments."""
        kept = activations.kept
        worst = max(kept + activations.peak + self.buffers, kept + self.forward, self.step)
        return self.weights + self.gradients + self.optimizer + worst


@dataclass(frozen=True, slots=True)
class Activations:
    """Bytes of activations on one device."""

    kept: float  # from the forward pass until the backward pass needs them
    peak: float  # on top, at the fullest moment of the backward pass


def model_states(
    *,
    parameters: int,
    trainable: int,
    sharding: str,
    devices: int,
    dtype: str,
    bf16: bool,
    largest_layer: int = 0,
    small: int = 0,
    bucket: int = 0,
    quantized: int = 0,
    states: float = 8.0,
    accumulation: int = 1,
    checkpointing: bool = True,
) -> States:
    """Bytes on each of `devices` that hold a model of so many numbers between them, for one of `SHARDINGS`.

    Args: `dtype` as loaded, `bf16` mixed precision or DeepSpeed's bfloat16; counts of numbers: `largest_layer`, `small`
    tensors that ZeRO-3 leaves whole, `bucket` of a reduction (DeepSpeed's `auto` is hidden x hidden), `quantized`
    weights in four bits; `states` bytes of the optimizer for each trained number in float32; `accumulation` forward
    passes a step. Raises UserError for an unknown sharding or dtype.

    The stages are those of ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 3); what is kept is read from the
    code. Plain training and FSDP2 update the weights that they compute with. DeepSpeed computes in bfloat16 and keeps
    float32 weights beside them, shared out from stage 1 on; in float32 stages 1 and 2 keep that copy too, stage 3 does
    not. Stage 1 holds whole gradients. On one device nothing is shared out, and all that do not offload are plain.
    """
    if sharding not in SHARDINGS:
        raise UserError(f"sharding={sharding}{near(sharding, SHARDINGS)}")
    loaded = element(dtype)
    frozen = parameters - trainable - quantized
    case = _Case(
        trainable=trainable,
        devices=devices,
        largest=min(largest_layer, parameters),
        trained_layer=min(largest_layer, trainable),
        states=states,
        bucket=bucket,
        accumulation=accumulation,
    )
    if is_plain(sharding, devices):
        adapters = trainable < parameters and bf16  # PEFT keeps adapters in float32
        return _plain(case, frozen * loaded + quantized * NF4, 4 if adapters else loaded, bf16, checkpointing)
    if sharding == "fsdp2":  # accelerate keeps trained weights in float32 under mixed precision
        return _fsdp2(case, frozen * loaded + quantized * NF4, 4 if bf16 else loaded, 2 if bf16 else loaded)
    low = 2 if bf16 else loaded
    if sharding.startswith("zero3"):
        return _zero3(case, parameters, frozen * low + quantized * NF4, small, low, sharding.endswith("_offload"))
    return _zero12(case, frozen * low + quantized * NF4, low, sharding)


def is_plain(sharding: str, devices: int) -> bool:
    """Whether torch's optimizer updates whole weights: on one device nothing can be shared out."""
    return sharding == "ddp" or (devices == 1 and not sharding.endswith("_offload"))


@dataclass(frozen=True, slots=True)
class _Case:
    """What all ways of sharing out need to know; counts of numbers."""

    trainable: int
    devices: int
    largest: int
    trained_layer: int
    states: float
    bucket: int
    accumulation: int

    @property
    def share(self) -> float:
        """Of the trained numbers, those of one device."""
        return self.trainable / self.devices


def _plain(case: _Case, frozen: float, element: int, bf16: bool, checkpointing: bool) -> States:
    """One device, or DDP, whose buckets hold the gradients a second time (gradient_as_bucket_view is off).

    Autocast keeps a bfloat16 copy of every float32 weight until the forward pass ends; without checkpointing autograd
    holds them until the backward pass has come by.
    """
    own = case.trainable * element
    cast = 2 * case.trainable if bf16 and element == 4 else 0
    return States(
        weights=frozen + own,
        gradients=own,
        optimizer=case.trainable * case.states * (element / 4 if case.states >= 4 else 1),
        buffers=(own if case.devices > 1 else 0) + (min(cast, 2 * case.trained_layer) if checkpointing else cast),
        forward=(own if case.devices > 1 else 0) + cast,
    )


def _fsdp2(case: _Case, frozen: float, element: int, compute: int) -> States:
    """Everything is shared out. Gathered are the layer at work, the one fetched ahead, and the head."""
    return States(
        weights=frozen / case.devices + case.share * element,
        gradients=case.share * element,
        optimizer=case.share * case.states * (element / 4 if case.states >= 4 else 1),
        buffers=(3 * case.largest + case.trained_layer) * compute,
    )


def _zero12(case: _Case, frozen: float, low: int, sharding: str) -> States:
    """Stages 1 and 2 of `stage_1_and_2.py`: whole weights, a float32 share, two buckets.

    Before a step this share's gradients are flattened and cast. Under offload they go into float32 in CPU memory, which
    also has the share's weights, states, an image in `low`, and the gradients that accumulate.
    """
    offload, buckets = sharding.endswith("_offload"), 2 * case.bucket * low
    if offload:
        return States(
            weights=frozen + case.trainable * low,
            gradients=0.0,
            optimizer=0.0,
            buffers=buckets + 2 * case.trained_layer * low,
            host=case.share * (4 + case.states + 4 + low + (low if case.accumulation > 1 else 0)),
        )
    second = case.share * low if sharding == "zero1" or case.accumulation > 1 else 0
    return States(
        weights=frozen + case.trainable * low,
        gradients=case.trainable * low if sharding == "zero1" else case.share * low,
        optimizer=case.share * (4 + case.states),
        buffers=buckets + second + (0 if sharding == "zero1" else case.trained_layer * low),
        step=case.share * (low + (4 if low < 4 else 0)),
    )


def _zero3(case: _Case, parameters: int, frozen: float, small: int, low: int, offload: bool) -> States:
    """Stage 3 of `stage3.py`: shares of everything, small weights whole on top, layers gathered while they are needed.

    The update goes through groups of `SUB_GROUP` numbers. Under offload the shares are in CPU memory, gradients there
    in `low` and in float32.
    """
    weights = frozen / case.devices + case.share * low
    gathered = min(parameters, case.largest + KEPT_GATHERED) if case.largest else 0
    buffers = (gathered + case.trained_layer + case.bucket) * low
    master = 4 if low < 4 or offload else 0
    if offload:
        host = weights + case.share * (master + case.states + 4 + low)
        return States(weights=small * low, gradients=0.0, optimizer=0.0, buffers=buffers, host=host)
    return States(
        weights=weights + small * low,
        gradients=case.share * low,
        optimizer=case.share * (master + case.states),
        buffers=buffers,
        step=min(case.share, SUB_GROUP) * (low + (4 if low < 4 else 0)),
    )


def element(dtype: str) -> int:
    """Bytes of a number of that dtype. Raises UserError for one that is not known."""
    known = {"float32": 4, "bfloat16": 2, "float16": 2}
    if dtype not in known:
        raise UserError(f"train.dtype={dtype}{near(dtype, known)}: a plan needs to know its size")
    return known[dtype]


def activations(
    *,
    size: Size,
    tokens: int,
    residual: int,
    compute: int,
    checkpointing: bool,
    scores: int = 0,
    mask: int = 0,
) -> Activations:
    """Bytes of activations of a forward and backward pass over `tokens` on one device.

    Args: bytes of a number between layers (`residual`) and in matrix products (`compute`): 4 and 4 in float32, 4 and 2
    under autocast, 2 and 2 in bfloat16; `scores` is the length that each token's attention scores are kept for, 0 for
    kernels that keep none; `mask` is the length of an explicit mask.

    After Korthikanti et al. 2022 (arXiv 2205.05198, section 4), whose count is for GPT-2's layer; here for two RMS
    norms, rotary attention with grouped heads and a gated MLP, tensor by tensor as autograd saves them. A norm: its
    float32 input, the normalised row, and what the matrix products read of it. Attention: queries, keys and values
    repeated for all heads, the output twice, and the log-sums; kernels keep no scores, but each layer a copy of a mask.
    MLP: gate, its activation, up, product. With checkpointing the input of each layer is kept, and one layer at a time
    is computed again. On top come gradients in flight. The head is TRL's: one tile of logits, its gradients in float32
    until they are whole.
    """
    norms = {(2, 2): 16, (4, 2): 26, (4, 4): 24}[residual, compute] * size.hidden
    kept = (4 if compute == 4 else 4 + compute) * size.heads * scores
    attention = 5 * compute * size.attention + 4 * size.heads + kept
    layer = tokens * (norms + attention + 4 * compute * size.intermediate + compute * mask)
    flight = tokens * 2 * (compute * size.intermediate + residual * size.hidden)
    row = 3 * (4 if residual == 4 else 2) + 8  # last norm, selected rows; their gradients in float32, then cast
    head = tokens * size.hidden * row + min(tokens / 4096, 1) * TILE * compute
    head += size.head * (4 + (2 if residual == 2 else 0)) if size.head_trained else 0
    if checkpointing:
        return Activations(tokens * (size.layers * residual * size.hidden + mask), max(layer + flight, head))
    return Activations(size.layers * layer + tokens * mask, max(flight, head))


def seconds_per_step(
    *,
    size: Size,
    tokens: float,
    length: float,
    devices: int,
    peak: float,
    utilisation: float,
    checkpointing: bool,
) -> float:
    """Seconds of one optimizer step over `tokens` of rows of `length` tokens, on `devices` of `peak` FLOP/s each.

    Forward and backward take 6 operations for each weight and token (Kaplan et al. 2020, arXiv 2001.08361, section
    2.1); computing layers again takes 2 more (Narayanan et al. 2021, arXiv 2104.04473, appendix); frozen weights need
    no gradient and take 2 less. Attention takes 12 x layers x width x length for each token (Chowdhery et al. 2022,
    arXiv 2204.02311, appendix B), of which causal kernels do half, and a third more when done again.
    """
    again = 2 if checkpointing else 0
    weights = 4 * size.active + 2 * min(size.trainable, size.active) + again * size.active
    attention = 12 * size.layers * size.attention * length / 2 * (4 / 3 if checkpointing else 1)
    return tokens * (weights + attention) / (devices * peak * utilisation)
