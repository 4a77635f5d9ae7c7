"""Models whose first weights are not drawn, because others take their place or because only their shapes are wanted."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Undrawn(TorchFunctionMode):
    """Inside this context, `torch.nn.init` leaves new parameters as they are: seconds less for a billion of them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return self.init(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def init(self, func: Callable[..., Any], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Do nothing."""


class DrawnElsewhere(Undrawn):
    """Inside this context they are drawn and forgotten, one after the other: what is drawn next is what it would be."""

    def __init__(self) -> None:
        super().__init__()
        # One for all: what is freed, and has been touched, would be the next tensor's.
        self._scratch = torch.empty(0)

    def init(self, func: Callable[..., Any], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Draw into other memory of the same size; that of the tensor is not touched, and so not taken."""
        if tensor.numel() > self._scratch.numel():
            self._scratch = torch.empty(tensor.numel())
        func(self._scratch[: tensor.numel()].view(tensor.shape), *args, **kwargs)
