"""Token ids in, logits out: a stack of blocks, each attention then MLP, on one stream of channels.

Radford et al. (2019) with every part exchangeable (`ModelConfig`): up to the parts of Llama and Qwen3.
"""

from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from minigpt.config import ModelConfig
from minigpt.model import families
from minigpt.model.attention import Attention, Cache, Mask, Rotation
from minigpt.model.casting import Linear
from minigpt.model.layers import MLP, make_norm
from minigpt.model.rope import Rotary, rotary_frequencies
from minigpt.model.rope_scaling import scale_frequencies
from minigpt.tokenizer import Tokenizer


class Block(nn.Module):
    """(B, T, C) -> (B, T, C): what attention gathers and what the MLP makes of it, added to the stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = make_norm(config)
        self.attention = Attention(config, layer)
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, rotation: Rotation, mask: Mask, cache: Cache | None) -> Tensor:
        """Return the stream after this block, (B, T, C)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotation, mask, cache))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class GPT(nn.Module):
    """A decoder-only transformer: token ids (B, T) in, logits (B, T, V) out.

    Attributes:
        config: its shape, every derived field written out.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config = config.resolve()
        self.embedding = nn.Embedding(config.vocab_size, config.n_embd)
        if config.position == "learned":
            self.position_embedding = nn.Embedding(config.block_size, config.n_embd)
        else:
            frequencies = rotary_frequencies(config.head_dim, config.rope_theta)
            self.rotary = Rotary(scale_frequencies(frequencies, config), config.block_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.norm = make_norm(config)
        self.head = Linear(config.n_embd, config.vocab_size, bias=False)
        self._initialise()
        if config.tie_embeddings:
            self.embedding.weight = self.head.weight

    def hidden(
        self, ids: Tensor, *, cache: Cache | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Return the stream after the last norm, (B, T, C).

        Args:
            ids: (B, T).
            cache: what came before `ids`; afterwards it holds them too.
            documents: (B, T), the document of each position; attention then stays inside it. Not with a cache.
        """
        start, new = 0 if cache is None else cache.length, ids.size(1)
        if start + new > self.config.block_size:
            raise ValueError(f"{start + new} positions, but block_size is {self.config.block_size}")
        x = self.embedding(ids)  # (B, T, C)
        if self.config.position == "learned":
            x = x + self.position_embedding.weight[start : start + new]
            rotation = None
        else:
            rotation = self.rotary(start, new)
        mask = None  # `attend` is causal by itself, but for several positions after others
        if documents is not None:
            same = documents[:, None, :, None] == documents[:, None, None, :]
            mask = same.tril()  # (B, 1, T, T)
        elif start and new > 1:
            mask = torch.ones(new, start + new, device=ids.device).tril(start).bool()  # (T, S)
        x = self.dropout(x)
        for block in self.blocks:
            x = block(x, rotation, mask, cache)
        if cache is not None:
            cache.length += new
        return self.norm(x)

    def new_cache(self) -> Cache:
        """Return a cache in which nothing has been seen yet."""
        return Cache(self.config)

    def forward(self, ids: Tensor, *, cache: Cache | None = None) -> Tensor:
        """Return the logits of the token after each position, (B, T, V)."""
        return self.head(self.hidden(ids, cache=cache))

    def save_pretrained(
        self, folder: Path | str, tokenizer: Tokenizer | None = None, **options: int
    ) -> None:
        """Write a Hugging Face model directory, with the tokenizer where one is given.

        Args:
            folder: made where there is none.
            tokenizer: of the model.
            options: max_shard_bytes, the size of a weights file (5 GB).
        """
        families.write_model(Path(folder), self.config, self.state_dict(), tokenizer, **options)

    @classmethod
    def from_pretrained(cls, folder: Path | str) -> Self:
        """Return the model in a Hugging Face directory of a known family, in eval mode.

        Raises:
            UserError: not such a directory, a setting that this model does not have, or damaged tensors.
        """
        config, tensors = families.read_model(Path(folder))
        return families.build(cls, config, tensors, str(folder))

    def _initialise(self) -> None:
        """Draw the first weights: each part passes on what is as large as what it gets, but adds little of it yet."""
        for name, parameter in self.named_parameters():
            self.draw(name, parameter)

    def draw(self, name: str, parameter: Tensor) -> None:
        """Draw the first weights of the parameter of this name; gains stay as they are, at one."""
        # The last norm leaves channels of size one; so small a head starts near ln V at any width.
        head_std = min(0.02, 0.3 / self.config.n_embd**0.5)
        stds = {"embedding": 0.02, "position_embedding": 0.02, "head": head_std}
        module, _, kind = name.rpartition(".")
        if kind == "bias":
            nn.init.zeros_(parameter)
        elif parameter.dim() == 2:
            std = stds.get(module, parameter.size(1) ** -0.5)  # LeCun et al. (1998)
            if module.endswith(("attention.output", "mlp.down")):
                # 2L parts add to the stream: Radford et al. (2019), 2.3; 0.15: docs/experiments.md.
                std *= 0.15 / (2 * self.config.n_layer) ** 0.5
            nn.init.normal_(parameter, std=std)
