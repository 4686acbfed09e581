"""The attention cache of a running batch whose rows come and go: it grows in place, is cut, padded and joined."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SPARE = 64  # positions a growing cache reserves ahead, so that most steps write in place


def new_cache(model: Any) -> Any:
    """An empty cache for the model; one that grows in place where its layers keep plain keys and values."""
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
    """Two caches as one: the shorter is padded on the left, where the mask hides the padding."""
    import torch
    from torch.nn.functional import pad

    width = max(old_mask.shape[1], new_mask.shape[1])

    def join(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        return torch.cat([pad(t, (0, 0, width - t.shape[2], 0)) for t in (first, second)])

    for layer, other in zip(old.layers, new.layers, strict=True):
        layer.set(join(layer.keys, other.keys), join(layer.values, other.values))
    return old, torch.cat([pad(m, (width - m.shape[1], 0)) for m in (old_mask, new_mask)])


def _growing() -> Any:
    """A cache layer that writes new positions into reserved room; the library's copies everything at every step."""
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
