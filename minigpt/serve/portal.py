"""An uploaded model in its folder in, model and tokenizer out, with what happens on the way in sentences.

    unpack -> blueprint (which shape; what had to be inferred is said) -> mapping (tensors into the model) -> ready

Nothing in a file is run: of chat templates, which are programs, only ours is taken. Nothing of the folder is needed
once the model is there.
"""

import dataclasses
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from minigpt.config import ModelConfig
from minigpt.errors import UserError, first_line
from minigpt.files import read_json
from minigpt.finetune.chatml import CHATML
from minigpt.interop.export import chat_template
from minigpt.interop.layouts import Found
from minigpt.interop.loading import GPT2_ROWS, fitting, tokenizer_in
from minigpt.interop.pth import read_checkpoint
from minigpt.model.families import FAMILIES, build, family_of, from_hugging_face
from minigpt.model.size import parameter_count
from minigpt.model.transformer import GPT
from minigpt.model.weights import read_weights
from minigpt.serve.uploads import SETTINGS, WEIGHTS, Bounds, unpack
from minigpt.tokenizer import Tokenizer, find_tokenizer

_OPTION = re.compile(r" \(minigpt import with --model\.\S+ … says otherwise\)")  # not here


@dataclass(frozen=True)
class Stage:
    """Where an upload is.

    Attributes:
        name: unpack, blueprint or mapping, in this order; each is told when it begins, the blueprint when it is there.
        sentences: what there is to say about it.
    """

    name: str
    sentences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Opened:
    """A model that was uploaded."""

    model: GPT
    tokenizer: Tokenizer
    template: str | None


def open_upload(
    folder: Path, name: str, bounds: Bounds, given: Mapping[str, Any] | None = None
) -> Generator[Stage, None, Opened]:
    """Yield the stages of an upload, and return the model.

    Args:
        folder: as `uploads.receive` left it.
        name: what a person calls the file; for sentences.
        bounds: what it may take.
        given: fields of ModelConfig that a file of weights does not know: n_head.

    Raises:
        UserError: it is damaged, hostile, or no model that is known here; the sentence says what to do.
    """
    try:
        yield Stage("unpack")
        is_directory = unpack(folder, bounds) == "directory"
        path = folder / WEIGHTS
        found = _read_directory(folder) if is_directory else read_checkpoint(path, given)
        config, notes = _shortened(found, bounds.context)
        tokenizer, sentence = _tokenizer_of(folder, config.vocab_size)
        template, left_out = _template_of(folder) if is_directory else (None, [])
        notes = [_OPTION.sub("", note) for note in notes]
        yield Stage("blueprint", [_shape_in_words(found), *notes, sentence, *left_out])
        yield Stage("mapping", [f"{len(found.tensors)} tensors, each into its place"])
        model = build(GPT, config, found.tensors, name)
        return Opened(model, fitting(tokenizer, model, name), template)
    except UserError as error:
        raise UserError(_with_name(str(error), folder, name)) from None
    except (RuntimeError, MemoryError) as error:  # torch has no class for want of memory
        raise UserError(
            f"{name} cannot be loaded: {first_line(error)}; it may be too large for this machine"
        ) from None


def _read_directory(folder: Path) -> Found:
    """Return the model in a Hugging Face directory of a family of ours; others would need code of others."""
    settings = read_json(folder / SETTINGS)
    return Found(*from_hugging_face(settings, read_weights(folder)))


def _shortened(found: Found, longest: int) -> tuple[ModelConfig, list[str]]:
    """Return the shape with a context of at most so many tokens, and what there is to say."""
    config = found.config.resolve()
    if config.position == "learned" or config.block_size <= longest:
        return config, found.notes
    cut = f"context cut from {config.block_size:,} to {longest:,} tokens, the most for an upload"
    return dataclasses.replace(config, block_size=longest), [*found.notes, cut]


def _shape_in_words(found: Found) -> str:
    config = found.config.resolve()
    architecture = FAMILIES[family_of(config)].architecture
    return (
        f"{architecture}: {parameter_count(config):,} parameters, {config.n_layer} layers, {config.n_head} heads, "
        f"{config.n_embd} channels, context {config.block_size:,}"
    )


def _tokenizer_of(folder: Path, rows: int) -> tuple[Tokenizer, str]:
    """Return the tokenizer of an upload and a sentence on where it is from."""
    own = tokenizer_in(folder)
    if own is not None:
        kind = {"bpe": "BPE", "char": "characters"}.get(own.kind, "of its own kind")
        return own, f"tokenizer: {kind}, {own.vocab_size:,} ids, as it came with the model"
    if rows in GPT2_ROWS:
        return find_tokenizer("gpt2"), f"tokenizer: GPT-2's, because the model has {rows:,} ids"
    raise UserError(
        f"the upload comes without a tokenizer, and its {rows:,} ids are not GPT-2's; choose its tokenizer.json "
        "together with it, or zip the whole run directory"
    )


def _template_of(folder: Path) -> tuple[str | None, list[str]]:
    """Return the chat template of an upload where it is ours, and what there is to say of any other."""
    template = chat_template(folder)
    if template is None or template.strip() == CHATML.strip():
        return template, []
    return None, [
        "its chat template is a program, and one of a stranger's is not run here: serve the run beside the server to "
        "chat with it"
    ]


def _with_name(sentence: str, folder: Path, name: str) -> str:
    """Return a sentence with the name that a person knows in the place of ours, and what to do here."""
    sentence = sentence.replace("import it with --model.n-head N", "say how many beside the file")
    for path in (folder / WEIGHTS, folder):
        sentence = sentence.replace(f"{path}", name)
    return name + sentence.removeprefix(WEIGHTS) if sentence.startswith(f"{WEIGHTS} ") else sentence
