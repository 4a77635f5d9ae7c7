"""Any other causal language model that `transformers` knows, behind the face of `GPT`: to draw from and to measure.

For models whose parts this package does not have: Gemma, Mistral, gpt-oss, Mamba and whatever comes next. It computes
logits and nothing else; it is not trained, served or written here.
"""

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, NoReturn, Self

import safetensors
import torch
from torch import Tensor, nn

from minigpt.config import ModelConfig
from minigpt.errors import UserError, first_line, plain
from minigpt.extras import importing
from minigpt.model.attention import Cache
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer

_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_STORED = ("F64", "F32", "F16", "BF16")
_CONTEXT = 2048  # of a model that states none (ALiBi, recurrent ones)


class CausalLM(GPT):
    """A model of `transformers` that is asked as a `GPT` is.

    Attributes:
        inner: the model.
        config: its vocabulary and its context; the other fields mean nothing here.
    """

    def __init__(self, inner: Any) -> None:
        nn.Module.__init__(self)
        settings = inner.config.get_text_config()
        stated = (getattr(settings, name, None) for name in _CONTEXT_NAMES)
        context = next(
            (value for value in stated if isinstance(value, int) and value > 0), _CONTEXT
        )
        self.inner = inner
        self.config = ModelConfig(vocab_size=settings.vocab_size, block_size=context)
        self.head = _Given(inner.get_output_embeddings() or inner.get_input_embeddings())

    def hidden(
        self, ids: Tensor, *, cache: Cache | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Return the logits, (B, T, V); the head passes them on. Arguments as `GPT.hidden`, but no documents."""
        if documents is not None:
            raise UserError(
                "a model that transformers computes sees across the ends of documents; measure it on a text (--data)"
            )
        if not isinstance(cache, _Past):
            return self.inner(input_ids=ids, use_cache=False).logits
        return cache.extend(self.inner, ids)

    def new_cache(self) -> Cache:
        """Return a cache in which nothing has been seen yet."""
        return _Past()

    def train(self, mode: bool = True) -> Self:
        """Set eval mode.

        Raises:
            UserError: training was asked for.
        """
        if mode:
            raise unsupported(self.inner.config.model_type, "trained")
        return super().train(mode)

    def save_pretrained(self, *arguments: Any, **options: Any) -> NoReturn:
        """Refuse: what this package cannot compute it does not write.

        Raises:
            UserError: always.
        """
        raise unsupported(self.inner.config.model_type, "written or exported")


class _Given(nn.Identity):
    """Passes logits on, in the place of the head whose weights they came from."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self._head = [head]  # in a list, so that it is no second home of these weights

    @property
    def weight(self) -> Tensor:
        """(V, C)."""
        return self._head[0].weight


class _Past(Cache):
    """What `transformers` remembers of the positions seen; of a model without keys and values, their ids."""

    def __init__(self) -> None:
        self.length = 0
        self._past: Any = None
        self._ids: Tensor | None = None

    def extend(self, model: Any, ids: Tensor) -> Tensor:
        """Return the logits of new positions, (B, T, V), and remember them."""
        if self.length and self._past is None:
            ids = torch.cat([self._ids, ids], dim=1)  # ty: ignore[invalid-argument-type]
        answer = model(input_ids=ids, past_key_values=self._past, use_cache=True)
        self._past, self._ids = getattr(answer, "past_key_values", None), ids
        new = ids.size(1) - (self.length if self._past is None else 0)
        self.length += new
        return answer.logits[:, -new:]


def load_causal(folder: Path, model_type: str) -> tuple[CausalLM, Tokenizer]:
    """Return model (in eval mode) and tokenizer of a Hugging Face directory, through `transformers`.

    Only safetensors are read, and no code that lies in the directory is run.

    Raises:
        UserError: `transformers` is not there, does not know the model as a causal one, or finds it damaged.
    """
    with importing("hf", f"the {model_type} model in {folder}"):
        import transformers
    with _refusing(folder):
        config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
        auto: Any = transformers.AutoModelForCausalLM
        if type(config) not in auto._model_mapping:
            raise UserError(f"{model_type} is no causal language model that transformers knows")
        stored = "auto" if hasattr(config, "quantization_config") else torch.float32
        inner, found = auto.from_pretrained(
            folder, config=config, dtype=stored, use_safetensors=True, output_loading_info=True,
            trust_remote_code=False, local_files_only=True,
        )  # fmt: skip
    _check(folder, found)
    if stored is torch.float32:
        _check_types(folder)
    return CausalLM(inner).eval(), _tokenizer_of(folder, transformers)


def unsupported(model_type: str, what: str) -> UserError:
    """Return the refusal of what is not done with a model of another architecture, and who does it."""
    return UserError(
        f"a {model_type} model is not {what} here: sample and eval use it through transformers. Train it with TRL or "
        "torchtune, serve it with vLLM, convert it with llama.cpp's convert_hf_to_gguf.py"
    )


@contextlib.contextmanager
def _refusing(folder: Path) -> Generator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{folder} cannot be loaded: {error}") from None
    except (
        Exception
    ) as error:  # what transformers raises on a directory it cannot use has no class in common
        raise UserError(
            f"{folder} cannot be loaded by transformers: {first_line(error)[:300]}"
        ) from None


def _check(folder: Path, found: dict[str, Any]) -> None:
    """Refuse a model with tensors that were not in the directory, and so are random, or that have no place in it."""
    problems = [f"{name} is missing" for name in found["missing_keys"]]
    problems += [f"{name} is not part of the model" for name in found["unexpected_keys"]]
    problems += [f"{mismatch[0]} has another shape" for mismatch in found["mismatched_keys"]]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(f"{folder} cannot be loaded: {', '.join(sorted(problems)[:4])}{more}")


def _check_types(folder: Path) -> None:
    """Refuse tensors that are not stored as floating-point numbers, which `transformers` would convert unasked."""
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, "pt") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - no mapping
        wrong = {name: kind for name, kind in kinds.items() if kind not in _STORED}
        if wrong:
            name = min(wrong)
            raise UserError(
                f"{folder} cannot be loaded: {plain(name)} is {wrong[name]}, wanted floating point"
            )


def _tokenizer_of(folder: Path, transformers: Any) -> Tokenizer:
    """Return the tokenizer of a directory; one in an older format is converted by `transformers`."""
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.load(folder)
    with _refusing(folder):
        theirs = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        return Tokenizer(theirs.backend_tokenizer, theirs.eos_token or "")
