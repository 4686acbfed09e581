"""Attention over packed rows that stays inside each chain, without building a mask.

A packed row holds several whole chains; no token may see another chain. FlashAttention has kernels for that. Elsewhere
transformers builds a mask of length times length and attends over all of it. Here each chain is attended to alone, with
torch's own kernel: exact by construction, and the cost is the sum of squares instead of the square of the sum.
"""

from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from limo.errors import UserError

NAME = "chainwise"
FLASH = ("flash_attention_2", "flash_attention_3", "flash_attention_4", "kernels-community/")


def chainwise(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention of (1, heads, tokens, width), chain by chain where `cu_seq_lens_q` (chains + 1,) bounds them.

    Without bounds, or with a mask, it is transformers' own. Returns (1, tokens, heads, width), and no weights.
    """
    if cu_seq_lens_q is None or attention_mask is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **rest)  # type: ignore[no-any-return]
    parts = [
        sdpa_attention_forward(module, *(x[:, :, start:end] for x in (query, key, value)), None, **rest)[0]
        for start, end in pairwise(_bounds(cu_seq_lens_q))
    ]
    return torch.cat(parts, dim=1), None


_last: tuple[torch.Tensor | None, list[int]] = (None, [])


def _bounds(lengths: torch.Tensor) -> list[int]:
    """As a list; all layers of a pass ask for the same one, and a GPU is waited for only once."""
    global _last
    if _last[0] is not lengths:
        _last = (lengths, lengths.tolist())
    return _last[1]


def _mask(*args: Any, attention_mask: torch.Tensor | None = None, **rest: Any) -> torch.Tensor | None:
    """None for packed rows, which come without a padding mask; transformers' own for padded ones."""
    return None if attention_mask is None else sdpa_mask(*args, attention_mask=attention_mask, **rest)


def attention(setting: str, config: Any, packing: bool, half: bool = True) -> str:
    """The implementation to load a model with. `auto` is the fastest that is here and right for this model.

    `half` says that matrix products are in 16 bits, which FlashAttention's kernels need.

    Raises UserError for one that is not installed or that would let packed chains see each other.
    """
    AttentionInterface.register(NAME, chainwise)
    AttentionMaskInterface.register(NAME, _mask)
    sliding = _slides(config)
    if setting == "auto":
        flash = torch.cuda.is_available() and half and _installed("flash_attn")
        if flash and _supports(config, "_supports_flash_attn"):
            return "flash_attention_2"
        if not _supports(config, "_supports_sdpa"):
            return "eager"
        return "sdpa" if sliding or not packing else NAME  # sdpa's mask knows about windows
    if setting == NAME and sliding:
        raise UserError(f"train.attention={NAME} knows no sliding window, and this model has one: take sdpa")
    if setting.startswith("flash_attention") and not torch.cuda.is_available():
        raise UserError(f"train.attention={setting} needs a GPU: take auto")
    if setting == "flash_attention_2" and not _installed("flash_attn"):
        raise UserError("train.attention=flash_attention_2 needs: pip install flash-attn --no-build-isolation")
    if setting not in (NAME, "sdpa", "eager", "flex_attention") and not setting.startswith(FLASH):
        raise UserError(f"train.attention={setting}: there are auto, {NAME}, sdpa, eager, flex_attention, {FLASH[0]}")
    return setting


def _supports(config: Any, flag: str) -> bool:
    """What the model's class says of itself; what is not known is tried."""
    from transformers import AutoModelForCausalLM

    known = AutoModelForCausalLM._model_mapping.get(type(config), None)
    return bool(getattr(known, flag, True))


def _slides(config: Any) -> bool:
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None) or []
    if kinds:
        return any(kind != "full_attention" for kind in kinds)
    return bool(getattr(text, "sliding_window", None)) and getattr(text, "use_sliding_window", True)


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None
