"""What is trained of a model in, an adapter's directory out, and back: how an adapter's run lies on the disk.

The directory is PEFT's, with tokenizer and chat template. It holds trained rows as they are, while they are trained as
a difference to what they were: a checkpoint has that as well, to the last bit.
"""

from pathlib import Path

import torch
from torch import Tensor

from minigpt.errors import UserError
from minigpt.finetune.peft_format import read_trained, write_adapter
from minigpt.interop.export import write_chat_template
from minigpt.model.families import write_model
from minigpt.model.transformer import GPT
from minigpt.model.weights import read_tensors, save_tensors
from minigpt.rundir import TRAINED
from minigpt.saving import WholeForm
from minigpt.tokenizer import Tokenizer


class AdapterForm:
    """An adapter with what it is talked with; see `minigpt.saving.Form`."""

    def __init__(self, base: str, template: str) -> None:
        """Write adapters of `base`, a path or a name of the Hub, and the chat template beside them."""
        self._base, self._template = base, template

    def tensors(self, model: GPT) -> dict[str, Tensor]:
        """Return what is trained."""
        return {name: p for name, p in model.named_parameters() if p.requires_grad}

    def write(
        self,
        folder: Path,
        model: GPT,
        tensors: dict[str, Tensor],
        tokenizer: Tokenizer | None,
        *,
        exact: bool,
    ) -> None:
        """Write the directory; in a checkpoint also what is trained under our names."""
        assert tokenizer is not None, "an adapter is for talking"
        write_adapter(folder, model, self._base, tensors)
        tokenizer.save(folder)
        write_chat_template(folder, self._template)
        if exact:
            plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
            save_tensors(plain, folder / TRAINED)

    def read(self, folder: Path, model: GPT) -> dict[str, Tensor]:
        """Return what is trained; errors as `Form.read`."""
        wanted = self.tensors(model)
        exact = (folder / TRAINED).is_file()
        found = read_tensors(folder / TRAINED) if exact else read_trained(folder, model)
        if {name: t.shape for name, t in found.items()} != {n: p.shape for n, p in wanted.items()}:
            raise UserError(f"{folder} cannot be loaded: its tensors are of another adapter")
        if not all(torch.isfinite(tensor).all() for tensor in found.values()):
            raise UserError(f"{folder} cannot be loaded: it holds numbers that are not finite")
        return found


class ChatForm(WholeForm):
    """All weights, with the chat template that they were tuned with."""

    def __init__(self, template: str, ends: frozenset[int]) -> None:
        """Write a template beside the weights, and the tokens that end an answer."""
        self._template, self._ends = template, ends

    def write(
        self,
        folder: Path,
        model: GPT,
        tensors: dict[str, Tensor],
        tokenizer: Tokenizer | None,
        *,
        exact: bool,
    ) -> None:
        """Write the directory, which says it all."""
        write_model(folder, model.config, tensors, tokenizer)
        write_chat_template(folder, self._template, self._ends)
