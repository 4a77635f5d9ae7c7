"""A checkpoint's state and the settings asked for in; the settings to go on with out, or why it cannot be so."""

import math
from typing import Any

from minigpt import config as settings
from minigpt.config import RunConfig
from minigpt.errors import UserError
from minigpt.optim.schedule import WSD_DECAY

HARMLESS = (
    "train.log_every", "train.checkpoint_every", "train.keep", "train.sample_every",
    "train.parallel", "train.shard_size",  # how many take part may change, and how with it
    "data.source", "train.base", "train.init_from",  # they may move: a fingerprint says whether they are the same
)  # fmt: skip
FIXED = (
    "optim.name",
    "lora.rank",
    "lora.alpha",
    "lora.targets",
)  # beside the sections of model and data
ALONE_THEN = {"processes": 1, "parallel": "none"}  # what older checkpoints do not say
FOR_MUON_ALONE = ("optim.muon_lr", "optim.momentum", "optim.newton_schulz_dtype")


def settings_to_resume(config: RunConfig, state: dict[str, Any], override: bool) -> RunConfig:
    """Return the settings to go on with: those of the checkpoint, and of the new ones what cannot matter.

    Raises:
        UserError: a setting that matters has changed and `override` is not given.
    """
    resolved = settings.from_dict(state["config"], "the checkpoint")
    requested = settings.from_dict(state["requested"], "the checkpoint")
    asked_for = settings.changes(requested, config)
    changed = {  # what was left open then, and is left open now, has not changed
        key: values
        for key, values in settings.changes(resolved, config).items()
        if key in asked_for
    }
    lengths = [key for key in changed if key in ("train.minutes", "train.epochs")]
    if override and lengths:
        raise UserError(
            f"{' and '.join(lengths)} cannot be changed by --override: how many steps they come to was decided when "
            "the run began; pass --train.steps"
        )
    fixed = [
        key
        for key in serious_changes(changed, config)
        if key.startswith(("model.", "data.")) or key in FIXED
    ]
    if override and fixed:
        raise UserError(
            f"{' and '.join(fixed)} cannot be changed by --override: the weights, the order of the text or what "
            "the optimiser remembers depend on it; pass --again to start over, or another --out"
        )
    if override and config.train.steps and config.train.steps < state["progress"]["step"]:
        raise UserError(
            f"train.steps is {config.train.steps}, but the run is at step {state['progress']['step']} already"
        )
    serious = serious_changes(changed, config)
    if are_safely_more_steps(resolved, serious, state["progress"]["step"]):
        serious = {}
    if serious and not override:
        listed = "; ".join(f"{key} was {old!r}, now {new!r}" for key, (old, new) in serious.items())
        raise UserError(
            f"the run was begun with other settings: {listed}. Restore them, pass --override to go on with "
            "the new ones, or --again to start over"
        )
    sections: dict[str, dict[str, Any]] = {}
    for key, (_, new) in changed.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = new
    return settings.build([("the checkpoint", state["config"]), ("the new settings", sections)])


def serious_changes(changed: dict[str, Any], config: RunConfig) -> dict[str, Any]:
    """Return of these changes the ones that change what is learnt, measured or kept as best."""
    unread = () if config.optim.name == "muon" else FOR_MUON_ALONE
    return {
        key: values
        for key, values in changed.items()
        if key not in (*HARMLESS, *unread) and not key.startswith(("sample.", "log."))
    }


def are_safely_more_steps(before: RunConfig, changed: dict[str, Any], step: int) -> bool:
    """Return whether a run only becomes longer, and every step done so far is one of the longer run as well."""
    if set(changed) != {"train.steps"}:
        return False
    old, new = changed["train.steps"]
    stays = {"constant": math.inf, "wsd": (1 - WSD_DECAY) * old}  # the rate, until then
    return new > old and step <= stays.get(before.optim.schedule, -1)


def other_circumstances(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return in words what a run was begun on and is not on now; its precision is a setting, and compared as one."""
    before = ALONE_THEN | before
    return [
        f"{key} was {before.get(key)}, is {now[key]}"
        for key in now
        if key != "dtype" and before.get(key) != now[key]
    ]
