"""Rotary frequencies in, slower ones out: positions stretched to a longer context than the model was trained at."""

import math

import torch
from torch import Tensor

from minigpt.config import ModelConfig


def scale_frequencies(frequencies: Tensor, config: ModelConfig) -> Tensor:
    """Return the frequencies as `config.rope_scaling` wants them, (D/2,).

    linear: all divided by the factor (Chen et al., 2023, "position interpolation").
    llama3: the slow ones divided, the fast ones kept, those between them blended (Llama 3.1; Grattafiori et al., 2024).
    """
    slowed = frequencies / config.rope_factor
    if config.rope_scaling == "none":
        return frequencies
    if config.rope_scaling == "linear":
        return slowed
    low, high = config.rope_low_freq, config.rope_high_freq
    turns = config.rope_old_context * frequencies / (2 * math.pi)  # over the old context
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return torch.lerp(slowed, frequencies, kept)
