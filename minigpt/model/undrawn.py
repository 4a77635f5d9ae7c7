"""Models whose first weights are not drawn, because others take their place or because only their shapes are wanted."""

from collections.abc import Callable
from typing import Any

from torch.overrides import TorchFunctionMode


class Undrawn(TorchFunctionMode):
    """Inside this context, `torch.nn.init` leaves new parameters as they are: seconds less for a billion of them."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return None
        return func(*args, **(kwargs or {}))
