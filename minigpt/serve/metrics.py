"""What happens in a server in, the text that Prometheus reads out."""

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
# name -> kind, help, names of the labels
FAMILIES = {
    "minigpt_requests_total": ("counter", "Requests that were answered.", ("path", "status")),
    "minigpt_prompt_tokens_total": ("counter", "Tokens of prompts.", ("model",)),
    "minigpt_generated_tokens_total": ("counter", "Tokens that were drawn.", ("model",)),
    "minigpt_texts_total": ("counter", "Texts that ended, by why.", ("model", "finish")),
    "minigpt_running": ("gauge", "Texts that are written on.", ("model",)),
    "minigpt_waiting": ("gauge", "Texts that wait for a slot.", ("model",)),
    "minigpt_slots": ("gauge", "Texts that can be written at a time.", ("model",)),
    "minigpt_tokens_per_second": ("gauge", "Tokens drawn in the last ten seconds, by ten.", ("model",)),
    "minigpt_first_token_seconds": ("histogram", "From request to first token.", ("model",)),
    "minigpt_text_seconds": ("histogram", "From request to the end of a text.", ("model",)),
}  # fmt: skip
Labels = tuple[str, ...]


@dataclass
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    total: float = 0.0

    def lines(self, name: str, labels: str) -> Iterator[str]:
        so_far, separator = 0, "," if labels else ""
        for bound, count in zip((*SECONDS, "+Inf"), self.counts, strict=True):
            so_far += count
            yield f'{name}_bucket{{{labels}{separator}le="{bound}"}} {so_far}'
        yield f"{name}_sum{{{labels}}} {self.total:.6f}"
        yield f"{name}_count{{{labels}}} {so_far}"


class Metrics:
    """Counts, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[tuple[str, Labels], float] = defaultdict(float)
        self._histograms: dict[tuple[str, Labels], _Histogram] = defaultdict(_Histogram)

    def count(self, name: str, *labels: str, by: float = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counters[name, labels] += by

    def observe(self, name: str, *labels: str, seconds: float) -> None:
        """Note a duration."""
        with self._lock:
            found = self._histograms[name, labels]
            found.counts[bisect_left(SECONDS, seconds)] += 1
            found.total += seconds

    def text(self, gauges: Iterable[tuple[str, Labels, float]]) -> str:
        """Return all as Prometheus reads it (text format 0.0.4), with what is measured at this moment."""
        lines: dict[str, list[str]] = {name: [] for name in FAMILIES}
        for name, labels, value in gauges:
            lines[name].append(f"{name}{{{_labels(name, labels)}}} {value:g}")
        with self._lock:
            for (name, labels), value in self._counters.items():
                lines[name].append(f"{name}{{{_labels(name, labels)}}} {value:.0f}")
            for (name, labels), histogram in self._histograms.items():
                lines[name] += histogram.lines(name, _labels(name, labels))
        whole = []
        for name, (kind, what, _) in FAMILIES.items():
            whole += [f"# HELP {name} {what}", f"# TYPE {name} {kind}", *sorted_within(lines[name])]
        return "\n".join(whole) + "\n"


def sorted_within(lines: list[str]) -> list[str]:
    """Return the lines of a counter in their order; those of a histogram have theirs."""
    return lines if any("_bucket{" in line for line in lines) else sorted(lines)


def _labels(name: str, values: Labels) -> str:
    """Return labels as they are written: backslash, quote and line end in a value with a backslash before them."""
    names = FAMILIES[name][2]
    shown = (v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for v in values)
    return ",".join(f'{n}="{v}"' for n, v in zip(names, shown, strict=True))
