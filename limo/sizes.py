"""A model by its numbers, counted from its config: no weights are read and no memory is taken."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limo.errors import UserError
from limo.model import quiet_deepspeed, tokenizer_folder


@dataclass(frozen=True, slots=True)
class Size:
    """A model by its numbers; all counts are of numbers, not of bytes."""

    parameters: int  # adapters among them
    trainable: int
    active: int  # that a token is multiplied with: no looking up in a table, of experts only those that it meets
    layers: int
    hidden: int
    attention: int  # width of all heads together
    heads: int
    intermediate: int  # of the MLP; of all experts that a token meets
    vocabulary: int
    layer: int  # the largest layer
    head: int  # the matrix onto the vocabulary
    head_trained: bool
    small: int  # in tensors of at most 10 x hidden numbers, which ZeRO-3 does not share out
    linear: int  # frozen, in linear layers other than the head: what four bits apply to


def parameters(model: str, lora: Mapping[str, Any] | None = None, trust_remote_code: bool = False) -> Size:
    """Count a model from its config alone: a folder, `org/name` or `embedded:...`, with adapters as `lora` describes.

    The model is built on torch's meta device, so it takes no memory; of one on the Hub only small files are downloaded.
    Raises UserError for a model that there is not or that is no causal language model.
    """
    import torch

    config, whole = _built(tokenizer_folder(model), trust_remote_code)
    text = config.get_text_config()
    layer = max((_numel(block) for part in whole.modules() for block in _blocks(part, text)), default=0)
    head, embedding = whole.get_output_embeddings().weight, whole.get_input_embeddings().weight
    tied = head is embedding
    linear = sum(m.weight.numel() for m in whole.modules() if isinstance(m, torch.nn.Linear) and m.weight is not head)
    whole = whole if lora is None else _adapted(whole, lora)
    total, chosen = _numel(whole), _chosen(text)
    expert = sum(p.numel() for name, p in whole.named_parameters() if ".experts." in name)
    heads = int(text.num_attention_heads)
    width = int(
        getattr(text, "moe_intermediate_size", None) or getattr(text, "intermediate_size", 4 * text.hidden_size)
    )
    return Size(
        parameters=total,
        trainable=sum(p.numel() for p in whole.parameters() if p.requires_grad),
        active=total - (0 if tied else embedding.numel()) - round(expert * (1 - chosen[0])),
        layers=int(text.num_hidden_layers),
        hidden=int(text.hidden_size),
        attention=heads * int(getattr(text, "head_dim", None) or text.hidden_size // heads),
        heads=heads,
        intermediate=width * chosen[1],
        vocabulary=int(text.vocab_size),
        layer=layer,
        head=head.numel(),
        head_trained=bool(head.requires_grad),
        small=sum(p.numel() for p in whole.parameters() if p.numel() <= 10 * int(text.hidden_size)),
        linear=0 if lora is None else linear,
    )


def _built(folder: Path, trust_remote_code: bool) -> tuple[Any, Any]:
    """The config of a folder and its model on the meta device. Raises UserError if there is none."""
    quiet_deepspeed()
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            whole = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            whole.tie_weights()
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"cannot read the model in '{folder}': {str(error).splitlines()[0]}") from error
    return config, whole


def _adapted(whole: Any, lora: Mapping[str, Any]) -> Any:
    """The model with adapters and all else frozen. Raises UserError for arguments that peft refuses."""
    import torch
    from peft import get_peft_model

    from limo.adapters import lora_config

    try:
        with torch.device("meta"):
            return get_peft_model(whole, lora_config(lora))
    except ValueError as error:
        raise UserError(f"train.lora: {str(error).splitlines()[0]}") from error


def _numel(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _blocks(part: Any, text: Any) -> list[Any]:
    """The layers, if this part of a model is the list of them."""
    import torch

    return list(part) if isinstance(part, torch.nn.ModuleList) and len(part) == text.num_hidden_layers else []


def _chosen(text: Any) -> tuple[float, int]:
    """Of a mixture of experts the share and the number that a token meets; 1 and 1 of any other model."""
    every = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    each = getattr(text, "num_experts_per_tok", None)
    return (each / every, each) if every and each else (1.0, 1)
