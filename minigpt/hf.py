"""A `minigpt` directory in, a model of `transformers` out: importing this registers the architecture.

    import minigpt.hf
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)

It serves the shapes that no architecture of Hugging Face can hold (`families.py` writes the others as GPT-2, Llama …).
The computation is that of `GPT`, on the same modules under the same names; here is only what `transformers` asks for.
"""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minigpt.config import ModelConfig
from minigpt.extras import command_for
from minigpt.model.attention import Cache
from minigpt.model.families import shape_of
from minigpt.model.rope import Rotary, rotary_frequencies
from minigpt.model.rope_scaling import scale_frequencies
from minigpt.model.transformer import GPT

try:
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        DynamicCache,
        GenerationMixin,
        PreTrainedConfig,
        PreTrainedModel,
    )
    from transformers.cache_utils import DynamicLayer
    from transformers.modeling_outputs import CausalLMOutputWithPast
    from transformers.utils.generic import can_return_tuple
except ImportError as error:
    raise ImportError(f"minigpt.hf needs transformers 5 or newer: {command_for('hf')}") from error

# What the loss of `transformers` takes, and what older releases of it pass although the cache knows.
LOSS_OPTIONS = {"num_items_in_batch", "ignore_index", "shift_labels"}
KNOWN_OTHERWISE = {"cache_position"}


class MiniGPTConfig(PreTrainedConfig):
    """The config.json of a `minigpt` directory.

    Attributes:
        minigpt: the fields of `ModelConfig`, every derived one written out. The figures that other programs look for
            (`hidden_size`, `max_position_embeddings` …) follow from it.
    """

    model_type = "minigpt"
    has_no_defaults_at_init = True
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 - read, never written; Trainer wants a list

    def __init__(
        self, minigpt: dict[str, Any] | None = None, use_cache: bool = True, **settings: Any
    ) -> None:
        if minigpt is None:
            raise ValueError(
                "a minigpt config needs its shape: MiniGPTConfig(minigpt={'vocab_size': 512, 'n_layer': 4})"
            )
        shape = shape_of({"model_type": "minigpt", "minigpt": minigpt})
        figures = _figures(shape)
        for name, value in figures.items():
            if settings.setdefault(name, value) != value:
                raise ValueError(
                    f"{name} is {settings[name]!r}, but the shape under 'minigpt' says {value!r}; change it there"
                )
        super().__init__(**settings)
        self.minigpt, self.use_cache = dataclasses.asdict(shape), use_cache

    @property
    def shape(self) -> ModelConfig:
        """The shape as `GPT` takes it."""
        return ModelConfig(**self.minigpt)


def _figures(shape: ModelConfig) -> dict[str, Any]:
    """Return a shape under the names that other programs look for."""
    return {
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.block_size,
        "hidden_size": shape.n_embd,
        "intermediate_size": shape.mlp_hidden,
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": shape.n_kv_head,
        "head_dim": shape.head_dim,
        "tie_word_embeddings": shape.tie_embeddings,
    }


class MiniGPTForCausalLM(PreTrainedModel, GenerationMixin):
    """A `GPT` as `transformers` wants it.

    Its modules are those of the `GPT`, so the tensors have the same names. Rows may be padded on the left or on the
    right, as `attention_mask` says, and each gives what it gives alone.
    """

    config: MiniGPTConfig
    config_class = MiniGPTConfig
    _tied_weights_keys = {"head.weight": "embedding.weight"}  # noqa: RUF012 - read, never written
    _no_split_modules = ["Block"]  # noqa: RUF012
    _supports_sdpa = True

    def __init__(self, config: MiniGPTConfig) -> None:
        super().__init__(config)
        gpt = GPT(config.shape)
        if gpt.config.position == "rope":
            gpt.rotary.to(gpt.head.weight.dtype)
        for name, module in gpt.named_children():
            self.add_module(name, module)
        self.post_init()

    @property
    def gpt(self) -> GPT:
        """The same modules as a `GPT`, for what is not of `transformers`: `minigpt.generate(model.gpt, …)`."""
        gpt = GPT.__new__(GPT)
        nn.Module.__init__(gpt)
        gpt.config, gpt.training, gpt._modules = self.config.shape, self.training, self._modules
        return gpt

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **options: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits, (B, T, V), the loss where there are labels, and the cache where one is used.

        Args:
            input_ids: (B, T).
            attention_mask: (B, S), 0 where a row is padded, for the S positions of cache and `input_ids` together.
            position_ids: (B, T); only those that the mask implies.
            past_key_values: what came before `input_ids`; afterwards it holds them too.
            labels: (B, T), the ids themselves (they are moved by one here), -100 where not counted.
            use_cache: None: as the configuration says, but not in training.
            logits_to_keep: the last so many positions, or the positions by index; 0: all.
            options: of the loss, `num_items_in_batch` among them.

        Raises:
            ValueError: something that this model does not do.
        """
        for name in ("output_hidden_states", "output_attentions"):
            options.setdefault(name, getattr(self.config, name))
        ids = _checked(input_ids, options)
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        seen = _seen(past_key_values)
        padding = _left_padding(attention_mask, ids, seen)
        _check_positions(position_ids, attention_mask, padding, seen, ids)
        hidden = self._hidden(ids, past_key_values, padding.tolist())  # (B, T, C)
        if isinstance(logits_to_keep, Tensor):
            hidden = hidden[:, logits_to_keep]
        elif logits_to_keep:
            hidden = hidden[:, -logits_to_keep:]
        logits, loss = self.head(hidden), None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **options
            )
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def _hidden(self, ids: Tensor, cache: DynamicCache | None, padding: list[int]) -> Tensor:
        """Return `GPT.hidden` of each row without its padding, (B, T, C); rows padded alike go together."""
        if not any(padding):
            return self.gpt.hidden(ids, cache=None if cache is None else _WholeCache(cache))
        parts, groups, views = [], [], []
        for width in sorted(set(padding)):
            rows = [row for row, left in enumerate(padding) if left == width]
            view = None if cache is None else _RowsCache(cache, rows, width)
            fresh = max(width - _seen(cache), 0)  # of the padding, the part that is in `ids`
            hidden = self.gpt.hidden(ids[rows, fresh:], cache=view)
            parts.append(F.pad(hidden, (0, 0, fresh, 0)))
            groups += rows
            views.append(view)
        order = torch.tensor(groups).argsort()
        if cache is not None:
            for layer, pairs in enumerate(zip(*(view.new for view in views), strict=True)):
                keys, values = (torch.cat(part)[order] for part in zip(*pairs, strict=True))
                cache.update(keys, values, layer)
        return torch.cat(parts)[order]

    def init_weights(self) -> None:
        """Tie what is tied; `GPT` has drawn the weights already."""
        self.tie_weights(recompute_mapping=False)

    def _init_weights(self, module: nn.Module) -> None:
        """Fill what was not in the files that a model is loaded from: the table of rotary positions never is."""
        if isinstance(module, Rotary):
            shape = self.config.shape
            frequencies = rotary_frequencies(shape.head_dim, shape.rope_theta)
            table = Rotary(scale_frequencies(frequencies, shape), shape.block_size)
            module.cos.copy_(table.cos)
            module.sin.copy_(table.sin)
        else:
            super()._init_weights(module)

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put another token embedding in its place."""
        self.embedding = value

    def get_output_embeddings(self) -> nn.Module:
        """Return the head, which `transformers` ties to the embedding."""
        return self.head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Put another head in its place."""
        self.head = new_embeddings

    def resize_token_embeddings(self, *arguments: Any, **options: Any) -> nn.Embedding:
        """Return the embedding after giving it and the head another number of rows; the shape follows."""
        embedding = super().resize_token_embeddings(*arguments, **options)
        self.config.minigpt["vocab_size"] = self.config.vocab_size
        return embedding


class _WholeCache(Cache):
    """A cache of `transformers` as `GPT.hidden` asks for one."""

    def __init__(self, cache: DynamicCache) -> None:
        self.cache, self.length = cache, cache.get_seq_length()

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store the keys and values of new positions, (B, K, T, D); return all of the layer's, (B, K, S, D)."""
        return self.cache.update(key, value, layer)


class _RowsCache(Cache):
    """The same for some rows of a batch, without the padding on their left; what is new is handed over by the layer.

    Attributes:
        new: keys and values of each layer, padded on the left again to as many positions as the batch has.
    """

    def __init__(self, cache: DynamicCache, rows: list[int], padding: int) -> None:
        seen = cache.get_seq_length()
        self.cache, self.rows, self.padding = cache, rows, padding
        self.length, self.fresh = max(seen - padding, 0), max(padding - seen, 0)
        self.new: list[tuple[Tensor, Tensor]] = []

    def write(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of new positions, (B, K, T, D); return all of the layer's, (B, K, S, D)."""
        left = (0, 0, self.fresh, 0)
        self.new.append((F.pad(key, left), F.pad(value, left)))
        if not self.length:
            return key, value
        old: Any = self.cache.layers[layer]
        keys, values = (part[self.rows, :, self.padding :] for part in (old.keys, old.values))
        return torch.cat((keys, key), dim=2), torch.cat((values, value), dim=2)


def _checked(ids: Tensor | None, options: dict[str, Any]) -> Tensor:
    """Return the ids; refuse options that would change what comes out and are not known here."""
    for name in KNOWN_OTHERWISE:
        options.pop(name, None)
    for name in [name for name, value in options.items() if value is None or value is False]:
        options.pop(name)
    if unknown := sorted(options.keys() - LOSS_OPTIONS):
        raise ValueError(f"a minigpt model does not support {', '.join(unknown)}; leave it out")
    if ids is None:
        raise ValueError("a minigpt model reads token ids; pass input_ids")
    return ids


def _seen(cache: Any) -> int:
    """Return the positions in a cache; refuse one whose layers do not simply grow."""
    if cache is None:
        return 0
    kinds = {type(layer) for layer in getattr(cache, "layers", [None])}
    if kinds - {DynamicLayer} or not isinstance(cache, DynamicCache) or cache.offloading:
        raise ValueError(
            f"a minigpt model keeps its keys and values in a DynamicCache that is not offloaded, not in a "
            f"{type(cache).__name__}; leave cache_implementation and past_key_values out"
        )
    return cache.get_seq_length()


def _left_padding(mask: Tensor | None, ids: Tensor, seen: int) -> Tensor:
    """Return how many positions each row is padded by on the left, (B,); refuse a mask with a hole."""
    if mask is None:
        return torch.zeros(len(ids), dtype=torch.long)
    wanted = (ids.size(0), seen + ids.size(1))
    if tuple(mask.shape) != wanted:
        raise ValueError(
            f"attention_mask has the shape {tuple(mask.shape)}; wanted {wanted}, 1 for a token and 0 for padding"
        )
    begins = F.pad(mask.ne(0).long(), (1, 0)).diff(dim=1).eq(1)  # (B, S), where tokens begin
    if (holes := begins.sum(dim=1).gt(1)).any():
        raise ValueError(
            f"attention_mask has a hole in row {int(holes.long().argmax())}; a minigpt model takes padding on the "
            f"left or on the right (to generate: tokenizer.padding_side = 'left')"
        )
    return begins.long().argmax(dim=1)


def _check_positions(
    positions: Tensor | None, mask: Tensor | None, padding: Tensor, seen: int, ids: Tensor
) -> None:
    """Refuse positions, (B, T), that are not the places of the tokens in their rows."""
    if positions is None:
        return
    columns = torch.arange(seen, seen + ids.size(1), device=ids.device)
    wrong = positions != columns - padding.to(ids.device)[:, None]  # (B, T)
    if mask is not None:
        wrong = wrong & mask[:, seen:].ne(0)
    if wrong.any():
        raise ValueError(
            "a minigpt model counts positions from the first token of each row; packed rows or other position_ids "
            "are not supported, leave them out"
        )


AutoConfig.register("minigpt", MiniGPTConfig, exist_ok=True)
AutoModelForCausalLM.register(MiniGPTConfig, MiniGPTForCausalLM, exist_ok=True)
