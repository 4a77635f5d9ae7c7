"""The name of a model in, model and tokenizer out: runs, Hugging Face directories, adapters, files of weights.

runs/NAME  runs/NAME/checkpoints/step-…  a Hugging Face directory  hf:OWNER/NAME  weights.pth  bytes of weights
an adapter in PEFT's format, which says what model it belongs to
"""

import contextlib
import io
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minigpt.errors import UserError, first_line, plain
from minigpt.extras import importing
from minigpt.files import cache_folder, expanded, read_json
from minigpt.finetune.lora import merge
from minigpt.finetune.peft_format import SETTINGS, base_named_in, is_adapter, put_adapter
from minigpt.interop.causal import CausalLM, load_causal, unsupported
from minigpt.interop.pth import ENDINGS, read_checkpoint
from minigpt.model.families import FAMILIES, build
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer, char_tokenizer, find_tokenizer

Run = Path | str | bytes | io.BytesIO
GPT2_ROWS = (50257, 50304)  # GPT-2's vocabulary, and as nanoGPT pads it
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "merges.txt", "vocab.txt", "tokenizer.model"]
_log = logging.getLogger("minigpt")


def load(
    run: Run,
    tokenizer: Tokenizer | str | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    merged: bool = True,
) -> tuple[GPT, Tokenizer | None]:
    """Return a model, in eval mode, and its tokenizer.

    What had to be inferred about a file of weights is logged as a warning.

    Args:
        run: a run directory, one of its checkpoints, a Hugging Face directory, an adapter in PEFT's format,
            hf:OWNER/NAME (downloaded once), a .pth, .pt, .bin, .ckpt or .safetensors file, or the bytes of one, as such
            or in an `io.BytesIO`.
        tokenizer: to use instead: itself, gpt2, or a path. Without, a file of weights takes a tokenizer.json beside it,
            or GPT-2's where it has so many ids, or has none.
        given: fields of ModelConfig that a file of weights does not know, n_head for instance.
        merged: fold an adapter into the weights; otherwise it is as `finetune.lora.swap_in` puts it in, to go on with.

    Raises:
        UserError: it is none of these, it is damaged, or tokenizer and model do not fit.
    """
    if isinstance(tokenizer, str):
        tokenizer = find_tokenizer(tokenizer)
    run = located(run)
    if isinstance(run, Path):
        if run.is_dir() and given:
            raise UserError(
                f"{run} says its shape in its config.json; leave --model.{next(iter(given))} out"
            )
        if run.is_dir():
            return _load_folder(run, tokenizer, merged)
        if run.suffix not in ENDINGS or not run.is_file():
            raise UserError(
                f"there is no model at {run}; pass a run, a Hugging Face directory, hf:OWNER/NAME, or a file that ends "
                f"in {', '.join(ENDINGS)}"
            )
    found = read_checkpoint(run, given)
    name = run.name if isinstance(run, Path) else "the checkpoint"
    for note in found.notes:
        _log.warning("%s: %s", name, note)
    model = build(GPT, found.config, found.tensors, name)
    tokenizer = tokenizer or (tokenizer_in(run.parent) if isinstance(run, Path) else None)
    if tokenizer is None and model.config.vocab_size in GPT2_ROWS:
        tokenizer = find_tokenizer("gpt2")
    return model, tokenizer and fitting(tokenizer, model, name)


def located(run: Run) -> Path | bytes | io.BytesIO:
    """Return where a model lies: names written out, one of the Hub fetched; bytes are what they are."""
    if isinstance(run, str) and run.startswith("hf:"):
        return download_model(run.removeprefix("hf:"))
    if isinstance(run, str | Path):
        if not str(run).strip():
            raise UserError("the name of the model is empty; pass a run, a directory or a file")
        return expanded(run)
    return run


def load_both(run: Run, tokenizer: Tokenizer | str | None = None) -> tuple[GPT, Tokenizer]:
    """Return what `load` returns; refuse weights that come without a tokenizer."""
    model, found = load(run, tokenizer)
    if found is None:
        raise UserError(
            f"{run if isinstance(run, str | Path) else 'the checkpoint'} comes without a tokenizer; put its "
            "tokenizer.json there, or make a run of both: minigpt import PATH --tokenizer PATH --out RUN"
        )
    return model, found


def fitting(tokenizer: Tokenizer, model: GPT, where: str) -> Tokenizer:
    """Return the tokenizer if the model has a row for each of its ids.

    nanoGPT's characters come without an end of text: where a row is missing for that alone, it is left out.

    Raises:
        UserError: it has more ids than the model has rows.
    """
    rows, ids = model.config.vocab_size, tokenizer.vocab_size
    if ids == rows + 1 and tokenizer.kind == "char" and tokenizer.eos_id == rows:
        return char_tokenizer([piece.decode() for piece in tokenizer.pieces[:rows]], ends=False)
    if ids > rows:
        raise UserError(
            f"{where}: the tokenizer has {ids:,} ids but the model was built for {rows:,}; use the tokenizer and the "
            "model of one run"
        )
    return tokenizer


def download_model(name: str) -> Path:
    """Return the folder of a model of the Hugging Face Hub, fetched once into the cache: no pickles, no code.

    Raises:
        UserError: it cannot be reached, or `huggingface_hub` is not there.
    """
    with importing("hf", f"hf:{name}"):
        import huggingface_hub
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise UserError(f"hf:{name} names no model; wanted hf:OWNER/NAME")
    folder = cache_folder() / "models" / name.replace("/", "--")
    try:
        huggingface_hub.snapshot_download(name, local_dir=folder, allow_patterns=_HUB_FILES)
    except Exception as error:  # no network, no such name, no permission: no class in common
        if (folder / "config.json").is_file() or is_adapter(folder):
            return folder  # fetched before
        raise UserError(
            f"hf:{name} cannot be fetched ({first_line(error)[:200]}); download it elsewhere, and pass the folder"
        ) from None
    return folder


def base_of(folder: Path) -> Path:
    """Return where the model lies that an adapter belongs to, fetched once where it is one of the Hub.

    A path counts from the working directory, as with `peft`, or from the folder of the adapter.

    Raises:
        UserError: there is none, or it is an adapter itself.
    """
    name = base_named_in(folder)
    places = [expanded(name), folder / name]
    base = next((place for place in places if os.path.exists(place)), None)
    if base is None and not re.fullmatch(r"(hf:)?[\w-][\w.-]*/[\w-][\w.-]*", name):
        raise UserError(
            f"{folder} belongs to the model {plain(name)}, which is not there; put its path under "
            f"base_model_name_or_path in {folder.name}/{SETTINGS}"
        )
    base = base or download_model(name.removeprefix("hf:"))
    if is_adapter(base):
        raise UserError(
            f"{folder} belongs to {plain(base)}, which is an adapter itself; merge that one first: minigpt export "
            f"{plain(base)} --to hf --out DIR"
        )
    return base


def adapters_beside(place: Path) -> dict[str, Path]:
    """Return by name the adapters that lie beside a model, or beside an adapter of it, and belong to that model.

    One whose base cannot be found is no one's.
    """
    base = base_of(place) if is_adapter(place) else place
    found = {}
    for folder in sorted({*_folders(place.resolve().parent), *_folders(base.resolve().parent)}):
        if is_adapter(folder):
            with contextlib.suppress(UserError):
                if _is_base(folder, base):
                    found[folder.name] = folder
    return found


def _is_base(adapter: Path, base: Path) -> bool:
    """Return whether an adapter names this base; nothing is fetched for that."""
    name = base_named_in(adapter)
    places = (expanded(name), adapter / name, cache_folder() / "models" / name.replace("/", "--"))
    return any(os.path.exists(place) and os.path.samefile(place, base) for place in places)


def _folders(place: Path) -> list[Path]:
    return [path for path in place.iterdir() if path.is_dir()]


def _load_adapter(
    folder: Path, tokenizer: Tokenizer | None, merged: bool
) -> tuple[GPT, Tokenizer | None]:
    model, beside = load(base_of(folder))
    if isinstance(model, CausalLM):
        raise unsupported(model.inner.config.model_type, "adapted")
    put_adapter(model, folder)
    if merged:
        merge(model)
    tokenizer = tokenizer or tokenizer_in(folder) or beside
    return model, tokenizer and fitting(tokenizer, model, str(folder))


def _load_folder(
    folder: Path, tokenizer: Tokenizer | None, merged: bool
) -> tuple[GPT, Tokenizer | None]:
    if is_adapter(folder):
        return _load_adapter(folder, tokenizer, merged)
    model_type = _foreign_type(folder)
    if model_type is not None:
        model, beside = load_causal(folder, model_type)
    else:
        model, beside = GPT.from_pretrained(folder), tokenizer_in(folder)
    tokenizer = tokenizer or beside
    return model, tokenizer and fitting(tokenizer, model, str(folder))


def _foreign_type(folder: Path) -> str | None:
    """Return the model_type of a Hugging Face directory that is of no family of ours, else None."""
    if not (folder / "config.json").is_file():
        return None
    model_type = read_json(folder / "config.json").get("model_type")
    return model_type if isinstance(model_type, str) and model_type not in FAMILIES else None


def tokenizer_in(folder: Path) -> Tokenizer | None:
    """Return the tokenizer that lies in the folder of a model, or None."""
    there = any((folder / name).is_file() for name in ("tokenizer.json", "merges.txt"))
    return find_tokenizer(str(folder)) if there else None
