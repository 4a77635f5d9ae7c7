"""A model, its tokenizer and a text in, a `Look` out: its data, and the page that draws it."""

import html
import json
import math
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from minigpt import __version__
from minigpt.errors import UserError
from minigpt.files import replace_text
from minigpt.inside import heads
from minigpt.inside.compact import pack_maps, pack_points, rounded
from minigpt.inside.lens import Reading, readings
from minigpt.inside.trace import Trace, trace
from minigpt.inside.vectors import planes
from minigpt.interop.causal import CausalLM, unsupported
from minigpt.model.size import parameter_count
from minigpt.model.transformer import GPT
from minigpt.page import fill_page
from minigpt.sampling import DAMAGED
from minigpt.tokenizer import Tokenizer
from minigpt.tokenizer.show import visible

MOST_TOKENS = 256
MOST_WEIGHTS = 1 << 22  # in all maps together: 3 MB packed, 35 MB as numbers
FRAME_HEIGHT = 900  # pixels of a notebook's output
DRAW = """
renderLook(document.getElementById("look"), JSON.parse(document.getElementById("look-data").textContent));
"""


@dataclass(frozen=True)
class Look:
    """What goes on inside a model for one text.

    Attributes:
        model: its shape.
        text: the tokens, and how the model foretold them.
        trace: the tensors that all else is computed from.
        readings: of the lens, L + 1 of them.
        probe: what each head does on the probe (`heads.py`), or None.
    """

    model: dict[str, int]
    text: dict[str, Any]
    trace: Trace
    readings: list[Reading]
    probe: heads.Probe | None

    @cached_property
    def data(self) -> dict[str, Any]:
        """All of it in plain lists and numbers; the package's docstring says which."""
        weights, vectors = self.trace.weights, planes(self.trace)
        maps = {"weights": rounded(weights), "mean": rounded(weights.mean(dim=1))}
        return self._with(maps, {name: rounded(of) for name, of in vectors.items()})

    @cached_property
    def packed(self) -> dict[str, Any]:
        """The same for `renderLook`: maps and vectors as text."""
        weights, vectors = self.trace.weights, planes(self.trace)
        maps = {"weights": pack_maps(weights), "mean": pack_maps(weights.mean(dim=1))}
        query, key = pack_points(vectors["query"], vectors["key"])
        (value,) = pack_points(vectors["value"])
        points = {"query": query, "key": key, "value": value}
        shares = {name: rounded(of) for name, of in vectors.items() if name not in points}
        return self._with(maps, points | shares)

    def save(self, path: Path | str) -> Path:
        """Write all views as one HTML file, and return where it is.

        Raises:
            UserError: it cannot be written there.
        """
        path = check_place(Path(path))
        replace_text(path, self.html())
        return path

    def html(self) -> str:
        """Return the page that draws all views, by itself and without a network."""
        # In a script "<" could end it; JSON has another way to write it.
        content = json.dumps(self.packed).replace("<", "\\u003c")
        body = (
            f"<style>\n{_resource('look.css')}</style>\n<h1>Look inside</h1>\n<div id='look'></div>\n"
            "<noscript><p>The views are drawn by a script in this file; allow it to run.</p></noscript>\n"
            f"<footer>minigpt {__version__}. Everything shown here is in this file.</footer>\n"
            f'<script type="application/json" id="look-data">{content}</script>\n'
            f"<script>\n{_resource('look.js')}{DRAW}</script>"
        )
        return fill_page("Look inside", body)

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, for a notebook."""
        style = f"width: 100%; height: {FRAME_HEIGHT}px; border: 0"
        page = html.escape(self.html())
        return f'<iframe title="Look inside" sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe>'

    def _with(self, maps: dict[str, Any], vectors: dict[str, Any]) -> dict[str, Any]:
        return {
            "model": self.model,
            **self.text,
            "attention": maps | _described(self.trace, self.probe),
            "lens": [
                {
                    "top": one.top.tolist(),
                    "probabilities": rounded(one.probabilities),
                    "loss": rounded(one.loss),
                    "rank": one.rank.tolist(),
                }
                for one in self.readings
            ],
            "norms": {
                name: rounded(getattr(self.trace, name).norm(dim=-1))
                for name in ("stream", "attention", "mlp")
            },
            "vectors": vectors,
        }


def look(model: GPT, tokenizer: Tokenizer, text: str) -> Look:
    """Return what goes on inside a model for a text.

    Of a text that is longer than the context, or than can be drawn (256 tokens; fewer for many heads), the model is
    given the end.

    Args:
        model: with its tokenizer.
        tokenizer: of the model.
        text: at least one token.

    Raises:
        UserError: there is no text, or it holds a character that the tokenizer does not know; the model is one that
            `transformers` computes, or is damaged.
    """
    if isinstance(model, CausalLM):
        raise unsupported(model.inner.config.model_type, "looked into")
    ids = tokenizer.encode(text)
    if not ids:
        raise UserError("the text is empty; pass some text to look at")
    prefix, note = len(tokenizer.prefix), None
    kept = most_tokens(model) - prefix
    if len(ids) > kept:
        note = (
            f"The text has {len(ids):,} tokens; the model was given the last {kept:,} of them alone"
        )
        ids = ids[-kept:]
    done = trace(model, [*tokenizer.prefix, *ids])
    found = list(readings(model, done.stream, done.ids))
    if not found[-1].probabilities.isfinite().all():
        raise UserError(DAMAGED)
    named = {index for one in found for index in one.top.flatten().tolist()}
    said = {
        "note": note,
        "tokens": foretold(tokenizer, done.ids.tolist(), found[-1]),
        "loss": loss_of(tokenizer, done.ids.tolist(), found[-1].loss, max(1, prefix)),
        "pieces": {str(index): piece_of(tokenizer, index) for index in sorted(named)},
    }
    return Look(_shape(model), said, done, found, heads.run_probe(model, tokenizer))


def check_place(path: Path) -> Path:
    """Return the path of a file to write; refuse a folder, or one in a folder that is not there."""
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"the views cannot be written to {path}; pass the name of a file in a folder that exists"
        )
    return path


def most_tokens(model: GPT) -> int:
    """Return how many tokens of a text are looked at: no more than the context, nor than can be drawn."""
    maps = model.config.n_layer * model.config.n_head
    return min(model.config.block_size, MOST_TOKENS, math.isqrt(MOST_WEIGHTS // maps))


def foretold(tokenizer: Tokenizer, ids: list[int], last: Reading) -> list[dict[str, Any]]:
    """Return the tokens of a text, each with how the model's logits foretold it."""
    columns = zip(
        [None, *rounded(last.loss)],
        [None, *rounded((-last.loss).exp())],
        [None, *last.rank.tolist()],
        strict=True,
    )
    return [
        {"id": index, "piece": piece_of(tokenizer, index)}
        | dict(zip(("loss", "probability", "rank"), how, strict=True))
        for index, how in zip(ids, columns, strict=True)
    ]


def loss_of(
    tokenizer: Tokenizer, ids: list[int], losses: Tensor, first: int
) -> dict[str, Any] | None:
    """Return the loss of the tokens from the first that counts on, given that of all but token 0; None: of none."""
    counted = losses[first - 1 :].double()
    if not len(counted):
        return None
    size = sum(len(tokenizer.pieces[index]) for index in ids[first:])
    return {
        "nats_per_token": rounded(counted.mean()),
        "bits_per_byte": rounded(counted.sum() / math.log(2) / size),
        "tokens": len(counted),
    }


def piece_of(tokenizer: Tokenizer, index: int) -> str:
    """Return a token as it can be read; one that stands for nothing by its number."""
    piece = tokenizer.pieces[index] if index < len(tokenizer.pieces) else b""
    return visible(piece) if piece else f"<{index}>"


def _described(trace: Trace, probe: heads.Probe | None) -> dict[str, Any]:
    """Return what is said of the heads beside their maps."""
    weights, uniform = trace.weights, heads.uniform(len(trace.ids))
    here, chance = heads.scores(weights, trace.ids), heads.scores(uniform, trace.ids)
    layers, count = weights.shape[:2]
    return {
        "entropy": rounded(heads.entropy(weights)),
        "most_entropy": rounded(heads.entropy(uniform)),
        "here": {name: rounded(of) for name, of in here.items()},
        "uniform": {name: rounded(of) for name, of in chance.items()},
        "probe": probe and {name: rounded(of) for name, of in probe.scores.items()},
        "names": probe.names() if probe else [[[] for _ in range(count)]] * layers,
        "patterns": heads.PATTERNS,
    }


def _shape(model: GPT) -> dict[str, int]:
    c = model.config
    return {
        "layers": c.n_layer, "heads": c.n_head, "kv_heads": c.n_kv_head, "channels": c.n_embd,
        "head_dim": c.head_dim, "context": c.block_size, "parameters": parameter_count(c),
    }  # fmt: skip


def _resource(name: str) -> str:
    return (resources.files("minigpt") / "inside" / name).read_text(encoding="utf-8")
