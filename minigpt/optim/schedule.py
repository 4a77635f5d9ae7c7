"""The number of an update in, its learning rate out."""

import math

from minigpt.config import OptimConfig

WSD_DECAY = 0.2  # the share of a warm-up-stable-decay run in which the rate falls


def learning_rate(update: int, config: OptimConfig, steps: int) -> float:
    """Return the learning rate of an update, counted from 1 to `steps`.

    It rises from 0 to `lr` over `warmup_steps`, then falls to `min_lr`: along half a cosine (Loshchilov and Hutter,
    2017), in a line, or (wsd) in a line over the last fifth alone (Hägele et al., 2024); constant stays at `lr`.
    """
    if update < config.warmup_steps:
        return config.lr * update / config.warmup_steps
    done = (update - config.warmup_steps) / max(1, steps - config.warmup_steps)
    if config.schedule == "constant":
        left = 1.0
    elif config.schedule == "cosine":
        left = (1 + math.cos(math.pi * done)) / 2
    elif config.schedule == "linear":
        left = 1 - done
    else:
        left = min(1.0, (steps - update) / max(1.0, WSD_DECAY * steps))
    return config.min_lr + (config.lr - config.min_lr) * left
