"""A decoder's step for one text in, the same step as one compiled function out, kept on disk for the next start.

The weights are arguments, so that what is kept serves every model of the shape. torch's compiler writes the step as
C++ (AOTInductor), which takes half a minute; it is loaded in a hundredth of a second.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.config import ModelConfig
from minigpt.files import cache_folder, replacing
from minigpt.inference.decoder import Decoder
from minigpt.inference.decoder import __file__ as decoder_file
from minigpt.inference.packed import __file__ as packed_file
from minigpt.model.transformer import GPT

# Settings of a shape that the step does not depend on.
UNIMPORTANT: dict[str, Any] = {"dropout": 0.0, "tie_embeddings": False, "rope_theta": 10_000.0}
EXAMPLE = 8  # the position that the compiler is shown


class CompiledStep:
    """One token of the text in the first slot in, its logits out."""

    def __init__(self, decoder: Decoder, path: Path) -> None:
        """Load the step.

        Raises:
            RuntimeError: it was damaged, or made for another machine.
        """
        self._decoder = decoder
        # Loaded by torch's own part in C++, for the compiler takes two seconds to import.
        self._run = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1).run
        self._given = [*_first_slot(decoder), *_weights(decoder).values()]
        self._seen = torch.zeros(decoder.config.block_size, dtype=torch.int8)

    def __call__(self, token: int, place: int) -> Tensor:
        """Return the logits, (1, V), after a token at a position; position 0 is not for this."""
        return self._run([*_moving(self._decoder, self._seen, token, place), *self._given])[0]


def load_step(decoder: Decoder) -> CompiledStep | None:
    """Return the compiled step of a decoder; None where none is kept."""
    path = path_of(decoder.config, decoder.precision)
    if not path.exists():
        return None
    try:
        return CompiledStep(decoder, path)
    except RuntimeError:
        path.unlink(missing_ok=True)  # it can be made again
        return None


class SoonCompiled:
    """A decoder's own step, until the compiled one is there, which then takes its place."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder, self._process = decoder, start_compiling(decoder)
        # Also where the program ends before.
        self._end = weakref.finalize(self, stop_compiling, self._process)

    def __call__(self, token: int, place: int) -> Tensor:
        """Return the logits, (1, V), after a token at a position."""
        if self._process.poll() is not None:
            self._end()
            self._decoder.alone = load_step(self._decoder)
        return self._decoder.step_alone(token, place)


def start_compiling(decoder: Decoder) -> subprocess.Popen[bytes]:
    """Begin to make the step of a decoder in a process of its own, which ends with status 0 when it is kept."""
    content = json.dumps([dataclasses.asdict(decoder.config), decoder.precision])
    return subprocess.Popen(
        [sys.executable, "-m", "minigpt.inference.compiled", content],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the one who asked
    )


def stop_compiling(process: subprocess.Popen[bytes]) -> None:
    """End the process that compiles, and the compiler that it calls."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def path_of(config: ModelConfig, precision: str) -> Path:
    """Return where the step of a shape is kept: by all that it depends on."""
    parts = [
        json.dumps(dataclasses.asdict(config) | UNIMPORTANT, sort_keys=True),
        precision,
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        platform.machine(),
        str(torch.get_num_threads()),
        *(Path(file).read_text() for file in (decoder_file, packed_file, __file__)),
    ]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    return cache_folder() / "compiled" / f"{name}.pt2"


def compile_step(config: ModelConfig, precision: str) -> None:
    """Make the step of a shape and keep it."""
    path = path_of(config, precision)
    path.parent.mkdir(parents=True, exist_ok=True)
    decoder = Decoder(GPT(config).eval(), precision)
    names = list(_weights(decoder))
    moving = _moving(decoder, torch.zeros(config.block_size, dtype=torch.int8), 0, EXAMPLE)
    given = [*moving, *_first_slot(decoder), *_weights(decoder).values()]
    # One position more than is ever used lies in the slots, so that the compiler need not tell a full one apart.
    sizes = [
        {0: torch.export.Dim("S", min=2, max=config.block_size)} if one is moving[-1] else None
        for one in given
    ]
    with torch.no_grad():
        program = torch.export.export(_OneRow(decoder, names), (given,), dynamic_shapes=(sizes,))
        with replacing(path) as new:
            made = torch._inductor.aoti_compile_and_package(program, package_path=f"{new}.pt2")
            Path(made).replace(new)


class _OneRow(nn.Module):
    """A decoder as a function of all that it reads; attention is written out, so that all becomes one function."""

    def __init__(self, decoder: Decoder, names: list[str]) -> None:
        super().__init__()
        self._decoder, self._names = (
            [decoder],
            names,
        )  # in a list, so that its weights are not taken for constants

    def forward(self, given: list[Tensor]) -> Tensor:
        """Return the logits, (1, V), from `_moving`, `_first_slot` and `_weights`."""
        (decoder,) = self._decoder
        c, (x, *rotation, at, seen) = (
            decoder.config,
            given[: 4 if decoder.rotations is not None else 3],
        )
        rest = given[3 + len(rotation) :]
        keys, values, weights = (
            rest[: c.n_layer],
            rest[c.n_layer : 2 * c.n_layer],
            rest[2 * c.n_layer :],
        )

        def look(layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            seen_by = []
            for old, new in ((keys[layer], key), (values[layer], value)):
                old[:, :, at] = new.unsqueeze(2).to(old.dtype)
                seen_by.append(old[0, :, None, : seen.size(0)].float())  # (K, 1, S, D)
            query = query.view(c.n_kv_head, -1, 1, c.head_dim) * c.head_dim**-0.5
            scores = (query * seen_by[0]).sum(dim=-1)  # (K, H / K, S)
            shares = (scores - scores.amax(dim=-1, keepdim=True)).exp()
            gathered = (shares.unsqueeze(-1) * seen_by[1]).sum(dim=-2)
            return (gathered / shares.sum(dim=-1, keepdim=True)).view(1, -1)

        named = dict(zip(self._names, weights, strict=True))
        return torch.func.functional_call(decoder, named, (x, *(rotation or [None]), look))


def _moving(decoder: Decoder, seen: Tensor, token: int, place: int) -> list[Tensor]:
    """Return what differs from step to step: stream, rotation if there is one, position, and as many as are seen."""
    parts = decoder.begin(torch.tensor([token]), slice(place, place + 1))
    return [part for part in parts if part is not None] + [torch.tensor([place]), seen[: place + 1]]


def _first_slot(decoder: Decoder) -> list[Tensor]:
    """Return the keys of each layer, then the values, (1, K, room, D)."""
    return [part[:1] for part in (*decoder.keys, *decoder.values)]


def _weights(decoder: Decoder) -> dict[str, Tensor]:
    """Return what the blocks and the head read, by name."""
    return {
        name: part for name, part in decoder.named_buffers() if name.startswith(("blocks", "head"))
    }


if __name__ == "__main__":
    settings, wanted = json.loads(sys.argv[1])
    compile_step(ModelConfig(**settings), wanted)
