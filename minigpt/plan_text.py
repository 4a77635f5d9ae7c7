"""What `plan` found out in, lines of a terminal out."""

import textwrap
from collections.abc import Iterator
from typing import Any

from minigpt.plan import with_prefix

WIDTH = 80  # columns of the text
TOGETHER = "\N{NO-BREAK SPACE}"  # no line ends here
# Of a model that is to be as good as its FLOPs allow: Hoffmann et al. (2022).
BEST_TOKENS_PER_PARAMETER = 20


def as_text(facts: dict[str, Any]) -> str:
    """Return what `plan` returned, and what `needs` added where it did, as lines of up to 80 columns."""
    sections = (
        _model_lines, _parameter_lines, _group_lines, _flops_lines, _length_lines, _bytes_lines, _memory_lines,
        _scale_lines, _speed_lines, _warning_lines,
    )  # fmt: skip
    return "\n\n".join("\n".join(lines) for make in sections if (lines := list(make(facts))))


def _row(name: str, amount: float | str, note: str = "") -> str:
    shown = amount if isinstance(amount, str) else f"{amount:,}"
    return f"  {name:<24}{shown:>18}   {note}".rstrip()


def _wrapped(first: str, text: str, indent: int) -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=first, subsequent_indent=" " * indent,
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def _model_lines(facts: dict[str, Any]) -> Iterator[str]:
    heads = f"{facts['heads']} heads"
    if facts["key_value_heads"] != facts["heads"]:
        heads += f" over {facts['key_value_heads']} for keys and values"
    yield _wrapped(
        "model       ",
        f"{facts['architecture']}: {facts['layers']} layers, {heads}, {facts['head_channels']} channels each, "
        f"{facts['channels']:,} channels, {facts['mlp_channels']:,} in the MLP, context {facts['context_tokens']:,}",
        12,
    )
    ids = "" if facts["vocabulary_ids"] is None else f"{facts['vocabulary_ids']:,} ids in "
    rows = f"{ids}{facts['vocabulary_rows']:,} rows, from {facts['vocabulary_from']}"
    yield _wrapped("vocabulary  ", rows, 12)


def _parameter_lines(facts: dict[str, Any]) -> Iterator[str]:
    outer, block, layers = facts["outer_parameters"], facts["block_parameters"], facts["layers"]
    yield "parameters"
    yield _row("token table", outer["token_table"])
    yield _row("position table", outer["position_table"])
    yield _row("head", outer["head"], "" if outer["head"] else "shares the token table")
    yield _row(f"blocks ({layers})", layers * sum(block.values()), f"{sum(block.values()):,} each")
    for name, title in (("attention", "attention"), ("mlp", "MLP"), ("norms", "norms")):
        yield _row(f"  {title}", layers * block[name], f"{block[name]:,} each")
    yield _row("final norm", outer["final_norm"])
    yield _row("total", facts["parameters"])


def _group_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield "who updates them"
    titles = {"adamw": "AdamW", "muon": "Muon"}
    for group in facts["groups"]:
        decay = f"decay {group['weight_decay']:g}" if group["weight_decay"] else "no decay"
        title = f"{titles[group['optimizer']]}, {decay}"
        note = f"in {group['tensors']:,} tensors, rate up to {group['learning_rate']:g}"
        yield _row(title, group["parameters"], note)
        kinds = group["tensors_by_kind"].items()
        listed = (
            k.removeprefix("blocks.*.") + (f"{TOGETHER}x{n}" if n > 1 else "") for k, n in kinds
        )
        yield _wrapped("    ", ", ".join(listed), 4).replace(TOGETHER, " ")


def _flops_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield "FLOPs (a multiply-add is 2; attention as over the whole context, mask or not)"
    yield _row("forward, a token", facts["forward_flops_per_token"])
    yield _row("training, a token", facts["training_flops_per_token"], "6 N + 12 L H D T (*)")
    yield _row("training, a step", with_prefix(facts["training_flops_per_step"]))
    if facts["training_flops"] is not None:
        yield _row("training, the run", with_prefix(facts["training_flops"]))
    yield "  (*) Chowdhery et al. (2022), appendix B; N: the weights that are multiplied"


def _length_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield "length"
    sequences = facts["sequences_per_step"]
    yield _row(
        "tokens in a step", facts["tokens_per_step"], f"{sequences:,} x {facts['context_tokens']:,}"
    )
    share, micro = facts["sequences_per_process_and_step"], facts["sequences_per_micro_batch"]
    if facts["processes"] > 1:
        yield _row(f"each of {facts['processes']:,} processes", share, "sequences of them")
    if micro < share:
        yield _row("at once", micro, "sequences: a micro-batch")
    if facts["steps"] is None:
        wanted = "min" if facts["minutes"] else "epochs"
        yield _row("steps", "not known yet", f"{facts['minutes'] or facts['epochs']:g} {wanted}")
    else:
        yield _row("steps", facts["steps"])
        yield _row("tokens", facts["tokens"])
        best = f"{BEST_TOKENS_PER_PARAMETER}: Hoffmann et al. (2022)"
        yield _row("tokens per parameter", f"{facts['tokens_per_parameter']:,.1f}", best)
    if facts["first_loss_nats_per_token"] is not None:
        rows = f"ln {facts['vocabulary_rows']:,}, knowing nothing"
        yield _row("first loss", f"{facts['first_loss_nats_per_token']:.2f}", rows)
    if facts["minutes"]:
        yield "  A run of so many minutes times a few steps when it begins."
    elif facts["steps"] is None:
        yield "  Epochs are counted in tokens: minigpt prepare makes the folder to plan with."


def _bytes_lines(facts: dict[str, Any]) -> Iterator[str]:
    yield f"{'bytes':<26}{'fp32':>18}{'bf16':>18}"
    rows = {
        "weights": "weights_bytes",
        "cache, a token": "cache_bytes_per_token",
        "cache, whole context": "cache_bytes",
    }
    for title, key in rows.items():
        yield f"  {title:<24}{facts[f'{key}_fp32']:>18,}{facts[f'{key}_bf16']:>18,}"


def _memory_lines(facts: dict[str, Any]) -> Iterator[str]:
    if not (memory := facts.get("memory")):
        return
    plain, recomputed = memory["without_recomputation"], memory["with_recomputation"]
    yield f"{'memory of a step, bytes':<26}{'without':>18}{'with recomputation':>20}"
    titles = {
        "weights": "weights", "gradients": "gradients", "optimizer": "optimiser",
        "copies": "copies, in logged steps", "activations": "activations", "logits": "logits, with gradients",
        "temporaries": "the rest, at the peak", "peak": "peak of all at once",
    }  # fmt: skip
    for key, title in titles.items():
        yield f"  {title:<24}{plain[f'{key}_bytes']:>18,}{recomputed[f'{key}_bytes']:>20,}"
    chosen = recomputed if memory["recompute"] else plain
    when = {"forward": "the forward pass", "backward": "the backward pass", "update": "the update"}
    sequences = _counted(facts["sequences_per_micro_batch"], "sequence")
    text = (
        f"With {sequences} at a time in {memory['dtype']} on {memory['device']}. This run is "
        f"{'with' if memory['recompute'] else 'without'} recomputation; its peak is in {when[chosen['peak_in']]}."
    )
    if memory["process_bytes_at_least"] > memory["peak_bytes"]:
        process = memory["process_bytes_at_least"] / 1e6
        text += (
            f" With Python and its libraries the process takes {process:,.0f} MB, and more where the C library keeps "
            "what is freed."
        )
    if memory["kernels_of"] != memory["device"].split(":")[0]:
        text += " Counted on a CPU, in the precisions of that device, which cannot be followed from here."
    if facts["processes"] > 1:
        text += " That is a process that holds everything itself; what each of several holds stands below."
    yield _wrapped("  ", text, 2)


KINDS = {
    "none": "alone",
    "ddp": "ddp: each holds everything",
    "fsdp": "fsdp: each holds a part",
    "hsdp": "hsdp: a part in a group, groups alike",
}


def _scale_lines(facts: dict[str, Any]) -> Iterator[str]:
    if not (scale := facts.get("scale")):
        return
    processes, shards = _counted(scale["processes"], "process", "es"), scale["shards"]
    kind = KINDS[scale["kind"]]
    if scale["kind"] == "hsdp":
        kind = f"hsdp: {scale['copies']:,} copies of the model, each in {shards:,} parts"
    hosts = _counted(scale["hosts"], "host")
    yield _wrapped("scale       ", f"{processes} on {hosts}, {kind}", 12)
    if scale["processes"] > 1:
        yield "in the fullest process, bytes"
        held = scale["memory"]
        titles = {
            "weights": "weights", "gradients": "gradients", "optimizer": "optimiser",
            "copies": "copies, in logged steps", "accumulated": "gradients not yet sent",
            "gathered": "gathered, with gradients", "step": "activations, logits, rest",
            "peak": "peak of all at once",
        }  # fmt: skip
        for key, title in titles.items():
            if held[f"{key}_bytes"]:
                yield _row(title, held[f"{key}_bytes"])
        sent = scale["communication"]
        yield "sent by each process in a step, bytes"
        titles = {
            "gather": "weights, gathered", "scatter": "gradients, scattered",
            "all_reduce": "gradients, between copies", "exchange": "Muon's matrices", "updates": "Muon's updates",
        }  # fmt: skip
        for key, title in titles.items():
            if sent[f"{key}_bytes"]:
                yield _row(title, sent[f"{key}_bytes"])
        yield _row("together", sent["sent_bytes"], f"in {_counted(sent['calls'], 'call')}")
    yield from _scale_time_lines(facts, scale)
    saved = scale["checkpoint"]
    yield "a checkpoint, bytes"
    yield _row("weights", saved["weights_bytes"], "by the first process")
    yield _row("optimiser", saved["optimizer_bytes"], f"by {hosts}")
    if saved["wait_seconds"] is not None:
        yield _row("training waits", _duration(saved["wait_seconds"]))
        yield _row("written after", _duration(saved["write_seconds"]))
    if rates := scale["rates"]:
        text = (
            f"Stated, not measured: GPUs of {rates['flops'] / 1e12:,.0f} TFLOP/s, of which training reaches "
            f"{rates['flops_share']:.0%}, and {rates['device_bytes'] / 1e9:,.0f} GB; "
            f"{scale['per_host']:,} on a host, {rates['host_link'] / 1e9:,.0f} GB/s between them and "
            f"{rates['network'] / 1e9:,.0f} GB/s from each to other hosts, of which collectives reach "
            f"{rates['link_share']:.0%}; {rates['disk'] / 1e9:,.0f} GB/s from each host to disks. docs/scaling.md says "
            "where they come from."
        )
        yield _wrapped("  ", text, 2)


def _scale_time_lines(facts: dict[str, Any], scale: dict[str, Any]) -> Iterator[str]:
    yield "time of a step"
    if not (time := scale["time"]):
        yield "  not known: no rate of this device is stated, and none was measured"
        return
    sent = scale["communication"]
    yield _row("computing", _duration(time["compute_seconds"]), scale["compute_from"])
    if sent["seconds"] is None:
        yield _row("communication", "not known", "no rate of these links is stated")
        yield _row("a step, at least", _duration(time["seconds_at_least"]))
        yield _row("tokens/s, at most", round(time["tokens_per_second_at_most"]))
        return
    if scale["processes"] == 1:
        yield _row("tokens/s", round(time["tokens_per_second_at_most"]))
        return
    late = f"of it {_duration(sent['latency_seconds'])} latency"
    yield _row("communication", _duration(sent["seconds"]), late)
    yield _row("a step, at least", _duration(time["seconds_at_least"]), "all that can is hidden")
    yield _row("a step, at most", _duration(time["seconds_at_most"]), "nothing is")
    yield _row("tokens/s, at least", round(time["tokens_per_second_at_least"]))
    yield _row("tokens/s, at most", round(time["tokens_per_second_at_most"]))


def _speed_lines(facts: dict[str, Any]) -> Iterator[str]:
    if not (speed := facts.get("speed")):
        return
    if "tried" not in speed:
        if (facts.get("scale") or {}).get("time"):
            return
        yield _wrapped("time  ", f"not known: {speed['not_measured']}", 6)
        if "least_seconds_per_step" in speed:
            least = _duration(speed["least_seconds_per_step"])
            yield _row("a step", least, "at least, by its products")
        return
    threads = _counted(speed["threads"], "thread")
    tried = f"tried on {speed['device']}, {threads}, {speed['dtype']}: {speed['tried']}"
    yield _wrapped("time  ", tried, 6)
    yield _row("a step", _duration(speed["seconds_per_step"]))
    yield _row("tokens a second", round(speed["tokens_per_second"]))
    for what in ("evaluation", "sample", "checkpoint"):
        yield _row(f"{what}, each", _duration(speed[f"seconds_per_{what}"]))
    if speed["run_seconds"] is None:
        return
    if facts["steps"] is None:
        yield _row("steps in the run", speed["steps_about"], "about")
    yield _row("the run", _duration(speed["run_seconds"]))
    left_out = "Reading the text comes on top"
    if not facts["held_out_tokens"]:
        left_out += ", and a last pass over what is held out"
    yield f"  {left_out}."


def _counted(number: int, what: str, ending: str = "s") -> str:
    return f"{number:,} {what}{ending if number != 1 else ''}"


def _duration(seconds: float) -> str:
    """Return a time in the unit that suits it.

    >>> _duration(0.0273), _duration(59), _duration(90), _duration(5e5)
    ('27.3 ms', '59.0 s', '1.5 min', '5.8 days')
    """
    for below, unit, name in (
        (1, 1e-3, "ms"),
        (60, 1, "s"),
        (3600, 60, "min"),
        (86_400, 3600, "h"),
    ):
        if seconds < below:
            return f"{seconds / unit:,.1f} {name}"
    return f"{seconds / 86_400:,.1f} days"


def _warning_lines(facts: dict[str, Any]) -> Iterator[str]:
    for sentence in facts["warnings"]:
        yield _wrapped("warning: ", sentence, 9)
