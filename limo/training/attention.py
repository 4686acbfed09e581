"""Attention over packed rows, in which tokens see only their own chain, without building a mask.

A packed row holds several whole chains, and no token may see another chain. FlashAttention has kernels for that.
Elsewhere transformers builds a mask of length times length and attends over all of it. Here each chain is attended to
alone with torch's own kernel: exact by construction, at the sum of squares instead of the square of the sum.

This module and the CPU path of `trainers.py` are kept for their speed: on idle CPU cores, with 16 rows of 95 to 900
tokens and equal losses, they train 351 tokens/s, TRL packed 193, `padding_free` 116, padded 91 (docs/training.md). With
FlashAttention neither is used.
"""

from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from limo.errors import UserError

NAME = "chainwise"
_last: tuple[torch.Tensor | None, list[int]] = (None, [])


def chainwise(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of (1, heads, tokens, width). It is computed chain by chain, with the bounds `cu_seq_lens_q`
    (chains + 1,).

    Without bounds, or with a mask, transformers' own attention is used. Returns (1, tokens, heads, width) and None.
    """
    if cu_seq_lens_q is None or attention_mask is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)  # type: ignore[no-any-return]
    parts = [
        sdpa_attention_forward(module, *(x[:, :, start:end] for x in (query, key, value)), None, **rest)[0]
        for start, end in pairwise(_read_bounds(cu_seq_lens_q))
    ]
    return torch.cat(parts, dim=1), None


def _read_bounds(lengths: torch.Tensor) -> list[int]:
    """Read the bounds as a list. It is cached for all layers of a pass, so that they wait for the GPU only once."""
    global _last
    if _last[0] is not lengths:
        _last = (lengths, lengths.tolist())
    return _last[1]


def _mask(*args: Any, attention_mask: torch.Tensor | None = None, **rest: Any) -> torch.Tensor | None:
    """The attention mask: None for packed rows, which need no padding mask; that of transformers for padded rows."""
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **rest)


def choose_attention(setting: str, config: Any, packing: bool, half: bool = True) -> str:
    """Choose the attention implementation for a model. `auto` takes the fastest one that is installed and correct for
    this model.

    FlashAttention needs matrix products in 16 bits (`half`). Settings other than `auto` are the names that transformers
    uses.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_flash_attn_2_available

    AttentionInterface.register(NAME, chainwise)
    AttentionMaskInterface.register(NAME, _mask)
    sliding, model = _slides(config), AutoModelForCausalLM._model_mapping.get(type(config), None)
    if setting == NAME and sliding:
        raise UserError(f"train.attention={NAME} has no sliding window, and this model needs one: use sdpa")
    if setting != "auto":
        return setting
    flash = torch.cuda.is_available() and half and is_flash_attn_2_available()
    if flash and getattr(model, "_supports_flash_attn", True):  # as its class declares; an unknown class is tried
        return "flash_attention_2"
    if not getattr(model, "_supports_sdpa", True):
        return "eager"
    return "sdpa" if sliding or not packing else NAME  # sdpa's mask covers sliding windows


def _slides(config: Any) -> bool:
    text = config.get_text_config()
    if kinds := getattr(text, "layer_types", None):
        return any(kind != "full_attention" for kind in kinds)
    return bool(getattr(text, "sliding_window", None)) and getattr(text, "use_sliding_window", True)
