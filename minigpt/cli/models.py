"""The verbs that carry models in and out: import, export."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from minigpt import config
from minigpt.cli.app import JSON, app, finish, say, show
from minigpt.cli.settings import NO_SHAPE_OPTIONS, given
from minigpt.files import expanded


@app.command(name="import")
def import_model(
    path: str,
    /,
    *,
    out: Path,
    tokenizer: str | None = None,
    as_json: JSON = False,
    options: Annotated[Any, Parameter(name="*")] = NO_SHAPE_OPTIONS,
) -> None:
    """Make a run of a model that was trained elsewhere, and prove that it is the same.

    Example: minigpt import ckpt.pt --out runs/nano --tokenizer gpt2

    Parameters
    ----------
    path
        A Hugging Face directory, hf:OWNER/NAME, or a .pth, .pt, .bin, .ckpt or .safetensors file: ours, nanoGPT's,
        minGPT's, GPT-2's. Nothing in it is run.
    out
        A new folder.
    tokenizer
        gpt2, a tokenizer.json, or a folder with one; default: what lies with the model.
    """
    from minigpt.interop.export import import_model

    shape = config.convert_all("model", given(options).get("model", {}))
    proof = import_model(path, expanded(out), tokenizer=tokenizer, given=shape, say=say)
    show(proof.sentence())
    finish(as_json, proof.facts())


@app.command(name="export")
def export_model(
    run: str,
    /,
    *,
    to: Literal["hf", "gguf", "pth"],
    out: Path,
    quantize: Literal["f16", "bf16", "q8_0"] | None = None,
    as_json: JSON = False,
) -> None:
    """Write a model for other programs, read it again, and prove that it is the same.

    Example: minigpt export runs/demo --to gguf --out demo.gguf --quantize q8_0

    Parameters
    ----------
    run
        A run directory, one of its checkpoints, a Hugging Face directory, hf:OWNER/NAME, a file of weights, or an
        adapter in PEFT's format, which is merged into its base.
    to
        A Hugging Face directory (transformers, vLLM, PEFT), a GGUF file (llama.cpp, Ollama, LM Studio), or a plain
        state dict of PyTorch.
    out
        The new folder, or the file.
    quantize
        Fewer bits for each number [default: all 32]; q8_0, with a scale for every 32 numbers, is a form of GGUF.
    """
    from minigpt.interop.export import export

    proof = export(run, to, expanded(out), dtype=quantize or "f32", say=say)
    show(proof.sentence())
    finish(as_json, proof.facts())
