"""A model in, a directory or a file for other programs out, with the proof that it is the same model.

What is written is read again before it takes its place: its logits and its ids are compared with those of the model it
came from.
"""

import dataclasses
import os
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from minigpt.config import ModelConfig
from minigpt.errors import ProofError, UserError, plain
from minigpt.extras import require
from minigpt.files import flush, read_json, replace_json, replace_text
from minigpt.finetune.peft_format import is_adapter
from minigpt.inference.template import Template
from minigpt.interop.causal import CausalLM, unsupported
from minigpt.interop.loading import Run, base_of, load, load_both, located
from minigpt.interop.pth import read_checkpoint, write_pth
from minigpt.model.families import FAMILIES, build, family_of, write_model
from minigpt.model.transformer import GPT
from minigpt.model.weights import Tensors
from minigpt.tokenizer import Tokenizer

Target = Literal["hf", "gguf", "pth"]
NumberType = Literal["f32", "f16", "bf16", "q8_0"]
Say = Callable[[str], None]
# How far the logits may move, as a share of their spread: from three times what was measured on random models of all
# families with up to 24 layers.
LARGEST_SHARE = {"f32": 1e-4, "f16": 0.02, "bf16": 0.15, "q8_0": 0.7}
# How far a number may move, as a share of the largest in its tensor: half a unit in the last place, and of q8_0 half a
# step of 127 with a scale that is rounded itself.
LARGEST_ROUNDING = {"f32": 0.0, "f16": 2**-11, "bf16": 2**-8, "q8_0": 0.5 / 127 + 2**-11}
_TORCH_TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
_PROBE = "The 3 of us, über 10 000 km\n\tif x == 'y': # 日本 🙂  end"
TEMPLATE, GENERATION = "chat_template.jinja", "generation_config.json"


@dataclass(frozen=True)
class Proof:
    """What the comparison of a written model with its origin found.

    Attributes:
        path: what was written.
        architecture: as the reading program knows it.
        positions: compared, each over the whole vocabulary.
        largest_difference: of two logits.
        largest_share: the same as a share of the standard deviation of the logits.
        ids: of a text, compared and equal; 0 where there is no tokenizer.
    """

    path: Path
    architecture: str
    positions: int
    largest_difference: float
    largest_share: float
    ids: int

    def facts(self) -> dict[str, Any]:
        """Return the findings as JSON holds them."""
        return dataclasses.asdict(self) | {"path": str(self.path)}

    def sentence(self) -> str:
        """Return the findings for a person."""
        ids = f"; {self.ids} ids of a text are equal" if self.ids else ""
        return (
            f"{self.path}: {self.architecture}, read again: logits at {self.positions} positions differ by at most "
            f"{self.largest_difference:.2g} ({self.largest_share:.2g} of their spread){ids}"
        )


def export(
    run: Run, to: Target, out: Path, *, dtype: NumberType = "f32", say: Say = lambda line: None
) -> Proof:
    """Write a model for other programs, and prove it.

    Args:
        run: as `minigpt.load`; an adapter is written merged into its base.
        to: a Hugging Face directory, a GGUF file, or a plain state dict of PyTorch.
        out: the directory or file.
        dtype: of the numbers; q8_0 for GGUF alone.
        say: is told what a person should know.

    Raises:
        UserError: the model has no such form, or `out` is taken.
        ProofError: what was written is not the same model.
    """
    if dtype == "q8_0" and to != "gguf":
        raise UserError(
            f"--quantize q8_0 is a form of GGUF; with --to {to} take f16 or bf16, or --to gguf"
        )
    if to == "gguf":
        require("gguf", "--to gguf")
    check_free(out, folder=to == "hf")
    run = located(run)
    model, tokenizer = load_both(run) if to == "gguf" else load(run)
    if isinstance(model, CausalLM):
        raise unsupported(model.inner.config.model_type, "written or exported")
    return write_proven(
        model, tokenizer, to, out, dtype=dtype, template=chat_template(run), say=say
    )


def import_model(
    run: Run,
    out: Path,
    *,
    tokenizer: str | None = None,
    given: Mapping[str, Any] | None = None,
    say: Say = lambda line: None,
) -> Proof:
    """Make a directory of our own from a model that was made elsewhere, and prove it.

    Args:
        run: as `minigpt.load`.
        out: the directory.
        tokenizer: gpt2 or a path; None: the one that comes with the model.
        given: fields of ModelConfig that a file of weights does not know, n_head for instance.
        say: is told what a person should know.

    Raises:
        UserError: it cannot be loaded, or `out` is taken.
        ProofError: what was written is not the same model.
    """
    check_free(out, folder=True)
    run = located(run)
    model, found = load(run, tokenizer, given=given)
    if isinstance(model, CausalLM):
        raise unsupported(model.inner.config.model_type, "written or exported")
    if found is None:
        say(
            "it comes without a tokenizer: pass --tokenizer PATH for one, or use its weights from Python alone"
        )
    return write_proven(model, found, "hf", out, template=chat_template(run), say=say)


def write_proven(
    model: GPT,
    tokenizer: Tokenizer | None,
    to: Target,
    out: Path,
    *,
    dtype: NumberType = "f32",
    template: str | None = None,
    say: Say = lambda line: None,
) -> Proof:
    """Write a model beside `out`, compare what is read from there, and put it in its place only then."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".minigpt-", dir=out.parent) as hidden:
        written = Path(hidden) / out.name
        _write(written, model, tokenizer, to, dtype, template, say)
        again, ids = _read(written, to, model.config, tokenizer)
        architecture = FAMILIES[family_of(model.config)].architecture
        proof = compare(model, again, out, architecture if to == "hf" else to.upper(), ids)
        check_rounding(model.state_dict(), again.state_dict(), dtype)
        limit = LARGEST_SHARE[dtype]
        if not proof.largest_share <= limit:
            raise ProofError(
                f"what was written is not the same model, and is not kept: {proof.sentence()}; at most {limit:g} of "
                "their spread was wanted"
            )
        if to == "hf" and out.is_dir():
            out.rmdir()  # it is empty
        written.replace(out)
    flush(out.parent)
    return proof


def compare(model: GPT, again: GPT, path: Path, architecture: str, ids: int) -> Proof:
    """Return how far the logits of two models lie apart, on fixed random ids, prefilled and token by token."""
    length = min(model.config.block_size, 48)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randint(model.config.vocab_size, (2, length), generator=generator)
    wanted, found = _logits(model, probe), _logits(again, probe)
    difference = (found - wanted).abs().max().item()
    spread = max(wanted.std().item(), 1e-30)
    return Proof(path, architecture, probe.numel(), difference, difference / spread, ids)


def check_rounding(wanted: Tensors, found: Tensors, dtype: NumberType) -> None:
    """Refuse tensors that lie further from what they were than their precision explains.

    Raises:
        ProofError: one of them by name.
    """
    for name, tensor in wanted.items():
        largest = tensor.abs().max().item()
        moved = (found[name] - tensor).abs().max().item()
        if moved > LARGEST_ROUNDING[dtype] * largest + (0 if dtype == "f32" else 2**-24):
            raise ProofError(
                f"what was written is not the same model, and is not kept: {name} was moved by {moved:.2g}, "
                f"more than {dtype} explains"
            )


def chat_template(run: Run) -> str | None:
    """Return the chat template that lies with a model, in either place where Hugging Face keeps it, or None.

    A checkpoint has that of its run; an adapter without one that of its base.

    Raises:
        UserError: the file is not UTF-8.
    """
    if not isinstance(run, Path) or not run.is_dir():
        return None
    folder = run.resolve()
    if folder.parent.name == "checkpoints":
        folder = folder.parent.parent
    if (path := folder / TEMPLATE).is_file():
        try:
            return path.read_bytes().decode()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not UTF-8: byte {error.start}; put the template of the model there, or take it away"
            ) from None
    settings = folder / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.is_file() else None
    if template is None and is_adapter(folder):
        return chat_template(base_of(folder))
    if isinstance(
        template, list
    ):  # several by name, as older releases of `transformers` wrote them
        named = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
        template = named[0].get("template") if named else None
    return template if isinstance(template, str) else None


def write_chat_template(folder: Path, source: str, ends: Collection[int] = ()) -> None:
    """Put a chat template into a model directory, where chat, server and `transformers` look for it.

    Args:
        folder: of a model.
        source: Jinja.
        ends: tokens that end an answer, for `generate` of `transformers` to end there as well.
    """
    replace_text(folder / TEMPLATE, source)
    if ends:
        settings = read_json(folder / GENERATION)
        known = settings.get("eos_token_id")
        others = known if isinstance(known, list) else [] if known is None else [known]
        settings["eos_token_id"] = list(dict.fromkeys([*ends, *others]))
        replace_json(folder / GENERATION, settings)


def check_free(out: Path, *, folder: bool) -> None:
    """Refuse a place that holds something else, before any work.

    Raises:
        UserError: a folder was wanted and there is a file or a folder with something in it, or the other way round.
    """
    if out.name in ("", ".."):
        raise UserError("--out is empty or the folder you are in; name a new one")
    try:
        if out.is_symlink():
            raise UserError(f"--out: {plain(out)} is a link; name a new place")
        if folder and out.is_file():
            raise UserError(f"--out: {plain(out)} is a file; a folder was wanted")
        if folder and out.is_dir() and any(out.iterdir()):
            raise UserError(f"--out: the folder {plain(out)} is not empty; choose another")
        if not folder and out.is_dir():
            raise UserError(f"--out: {plain(out)} is a folder; the name of a file was wanted")
        if not folder and out.exists():
            raise UserError(
                f"--out: {plain(out)} is there already; remove it, or choose another name"
            )
    except OSError as error:
        raise UserError(f"--out cannot be {plain(out)[:60]}: {error.strerror}") from None
    above = next(place for place in out.absolute().parents if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--out: nothing can be written in {plain(above)}; choose another place")


def _write(
    path: Path,
    model: GPT,
    tokenizer: Tokenizer | None,
    to: Target,
    dtype: NumberType,
    template: str | None,
    say: Say,
) -> None:
    config, state = model.config, model.state_dict()
    if to == "gguf":
        from minigpt.interop.gguf import write_gguf

        assert tokenizer is not None
        name = path.stem
        write_gguf(
            path, config, state, tokenizer, dtype=dtype, chat_template=template, name=name, say=say
        )
        return
    state = _rounded(state, _TORCH_TYPES[dtype])
    if to == "pth":
        write_pth(path, config, state)
        return
    write_model(path, config, state, tokenizer)
    if template is not None:
        ends = Template(template, tokenizer).ends() if tokenizer else ()
        write_chat_template(path, template, ends)


def _read(
    path: Path, to: Target, config: ModelConfig, tokenizer: Tokenizer | None
) -> tuple[GPT, int]:
    """Return what was written as a model, and how many ids its tokenizer agreed on."""
    if to == "hf":
        model, found = load(path)
    elif to == "pth":
        read = read_checkpoint(path)
        model, found = build(GPT, read.config, read.tensors, path.name), None
    else:
        return _read_gguf(path, config, tokenizer)
    if found is None or tokenizer is None:
        return model, 0
    text = _probe_of(tokenizer)
    wanted = tokenizer.encode(text)
    if found.encode(text) != wanted or found.fingerprint() != tokenizer.fingerprint():
        raise ProofError("the tokenizer that was written gives other ids; nothing is kept")
    return model, len(wanted)


def _read_gguf(path: Path, config: ModelConfig, tokenizer: Tokenizer | None) -> tuple[GPT, int]:
    from minigpt.interop.gguf import read_gguf, read_gguf_vocabulary
    from minigpt.interop.gguf_vocabulary import vocabulary_of

    assert tokenizer is not None
    if read_gguf_vocabulary(path) != vocabulary_of(tokenizer, config.vocab_size, lambda line: None):
        raise ProofError(
            "the tokenizer that was written is not the one of the model; nothing is kept"
        )
    shape, tensors = read_gguf(path)
    return build(GPT, shape, tensors, path.name), tokenizer.vocab_size


def _rounded(state: Mapping[str, Tensor], dtype: torch.dtype) -> Tensors:
    """Return tensors of another precision, one where two names share one.

    Raises:
        UserError: a number lies beyond the largest of that precision.
    """
    made: dict[int, Tensor] = {}
    rounded = {name: made.setdefault(t.data_ptr(), t.to(dtype)) for name, t in state.items()}
    for name, tensor in rounded.items():
        if not tensor.isfinite().all() and state[name].isfinite().all():
            raise UserError(f"{name} has numbers that f16 cannot hold; take --quantize bf16")
    return rounded


def _probe_of(tokenizer: Tokenizer) -> str:
    """Return a text with all sorts of characters; of a character tokenizer those that it knows."""
    if tokenizer.kind != "char":
        return _PROBE
    special = set(tokenizer.specials.values())
    return "".join(p.decode() for i, p in enumerate(tokenizer.pieces) if i not in special)


@torch.inference_mode()
def _logits(model: GPT, ids: Tensor) -> Tensor:
    """Return the logits of all positions: the first half prefilled, the others one by one, (B, T, V)."""
    cache, half = model.new_cache(), max(1, ids.size(1) // 2)
    parts = [ids[:, :half], *ids[:, half:].split(1, dim=1)] if half < ids.size(1) else [ids]
    return torch.cat([model(part, cache=cache).float() for part in parts], dim=1)
