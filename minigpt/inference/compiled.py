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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.config import ModelConfig
from minigpt.files import cache_folder, replacing
from minigpt.inference.decoder import Decoder
from minigpt.inference.decoder import __file__ as decoder_file
from minigpt.inference.packed import NormedProduct, Product
from minigpt.inference.packed import __file__ as packed_file
from minigpt.model.transformer import GPT

# Settings of a shape that the step does not depend on.
UNIMPORTANT: dict[str, Any] = {"dropout": 0.0, "tie_embeddings": False, "rope_theta": 10_000.0}
EXAMPLE = 8  # the position that the compiler is shown
OPTIONS = {
    "cpp.enable_floating_point_contract_flag": "fast",  # multiply and add in one instruction
    # What is read again and again in the loops over the weights is stored, and not computed each time.
    "realize_reads_threshold": 1,
    "realize_opcount_threshold": 1,
}


class CompiledStep:
    """One token of the text in the first slot in, its logits out."""

    def __init__(self, decoder: Decoder, path: Path) -> None:
        """Load the step.

        Raises:
            RuntimeError: it was damaged, or made for another machine.
        """
        # Loaded by torch's own part in C++, for the compiler takes two seconds to import.
        self._run = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", True, 1, -1).run
        self._moving = _Moving(decoder)
        self._given = [*_first_slot(decoder), *_weights(decoder)]

    def __call__(self, token: int, place: int) -> Tensor:
        """Return the logits, (1, V), after a token at a position; position 0 is not for this."""
        return self._run([*self._moving(token, place), *self._given])[0]


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

    def __init__(self, decoder: Decoder, say: Callable[[str], None]) -> None:
        """Begin to compile, beside whatever else is done.

        Args:
            decoder: whose `alone` this will be.
            say: called where that failed.
        """
        self._decoder, self._process, self._say = decoder, start_compiling(decoder, "beside"), say
        # Also where the program ends before.
        self._end = weakref.finalize(self, stop_compiling, self._process)

    def __call__(self, token: int, place: int) -> Tensor:
        """Return the logits, (1, V), after a token at a position."""
        if self._process.poll() is not None:
            self._end()
            self._decoder.alone = load_step(self._decoder)
            if self._decoder.alone is None:
                self._say("compiling the step failed; it goes on without")
        return self._decoder.step_alone(token, place)


def start_compiling(decoder: Decoder, *words: str) -> subprocess.Popen[bytes]:
    """Begin to make the step of a decoder in a process of its own, which ends with status 0 when it is kept.

    Args:
        decoder: its shape and its precision count.
        words: "beside": whoever else computes goes first.
    """
    content = json.dumps([dataclasses.asdict(decoder.config), decoder.precision])
    return subprocess.Popen(
        [sys.executable, "-m", "minigpt.inference.compiled", content, *words],
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
    moving = _Moving(decoder)(0, EXAMPLE)
    given = [*moving, *_first_slot(decoder), *_weights(decoder)]
    # One position more than is ever used lies in the slots, so that the compiler need not tell a full one apart.
    length = {0: torch.export.Dim("S", min=2, max=config.block_size)}
    lengths = [length if one is moving[-1] else None for one in given]
    with torch.no_grad():
        program = torch.export.export(_OneRow(decoder), (given,), dynamic_shapes=(lengths,))
        with replacing(path) as new:
            made = torch._inductor.aoti_compile_and_package(
                program, package_path=f"{new}.pt2", inductor_configs=OPTIONS
            )
            Path(made).replace(new)


class _OneRow(nn.Module):
    """A decoder as a function of all that it reads; sums are written out, so that all becomes one function."""

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self._decoder, self._holders = decoder, list(_holders(decoder))
        for owner, _ in self._holders:
            if isinstance(owner, Product):
                owner.write_out()

    def forward(self, given: list[Tensor]) -> Tensor:
        """Return the logits, (1, V), from `_Moving`, `_first_slot` and `_weights`."""
        c, rest = self._decoder.config, list(given)
        x = rest.pop(0)
        rotation = None if self._decoder.rotations is None else rest.pop(0)
        at, seen = rest.pop(0), rest.pop(0)
        keys, values = rest[: c.n_layer], rest[c.n_layer : 2 * c.n_layer]
        for (owner, name), weight in zip(self._holders, rest[2 * c.n_layer :], strict=True):
            setattr(owner, name, weight)

        def look(layer: int, query: Tensor, key_value: Tensor) -> Tensor:
            seen_by = []
            news = key_value.chunk(2, dim=1)
            for old, new in zip((keys[layer], values[layer]), news, strict=True):
                old[:, :, at] = new.unsqueeze(2).to(old.dtype)
                seen_by.append(old[0, :, None, : seen.size(0)].float())  # (K, 1, S, D)
            query = query.view(c.n_kv_head, -1, 1, c.head_dim) * c.head_dim**-0.5
            scores = (query * seen_by[0]).sum(dim=-1)  # (K, H / K, S)
            shares = (scores - scores.amax(dim=-1, keepdim=True)).exp()
            gathered = (shares.unsqueeze(-1) * seen_by[1]).sum(dim=-2)
            return (gathered / shares.sum(dim=-1, keepdim=True)).view(1, -1)

        return self._decoder(x, rotation, look)


class _Moving:
    """What differs from step to step: stream, rotation if there is one, position, and as many as are seen."""

    def __init__(self, decoder: Decoder) -> None:
        self._embedding, self._places = decoder.embedding, decoder.places
        size, turned = decoder.config.block_size, decoder.rotations
        self._tables = [torch.arange(size)]
        if turned is not None:
            self._tables.insert(
                0, torch.view_as_real(turned).unsqueeze(1)
            )  # (block_size, 1, D/2, 2)
        self._seen = torch.zeros(size, dtype=torch.int8)

    def __call__(self, token: int, place: int) -> list[Tensor]:
        """Return it for a token at a position."""
        x = self._embedding.narrow(0, token, 1).float()  # (1, C)
        if self._places is not None:
            x = x + self._places.narrow(0, place, 1)
        rows = [table.narrow(0, place, 1) for table in self._tables]
        return [x, *rows, self._seen.narrow(0, 0, place + 1)]


def _first_slot(decoder: Decoder) -> list[Tensor]:
    """Return the keys of each layer, then the values, (1, K, room, D)."""
    return [part[i, :1] for i in range(2) for part in decoder.cache]


def _weights(decoder: Decoder) -> list[Tensor]:
    """Return what the blocks and the head read."""
    return [getattr(owner, name) for owner, name in _holders(decoder)]


def _holders(decoder: Decoder) -> Iterator[tuple[Any, str]]:
    """Yield where these lie, always in the same order: an object, and the name of its attribute."""
    parts = [*decoder.blocks, decoder.head]
    for part in parts:
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and not name.startswith("_"):
                yield part, name
            elif isinstance(value, Product | NormedProduct):
                parts.append(value)


if __name__ == "__main__":
    if "beside" in sys.argv:
        os.nice(10)
    settings, wanted = json.loads(sys.argv[1])
    compile_step(ModelConfig(**settings), wanted)
