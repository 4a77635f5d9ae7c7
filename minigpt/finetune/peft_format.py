"""Adapters in PEFT's format in and out: adapter_config.json and adapter_model.safetensors.

    base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight    (r, inputs), under Hugging Face's names
    base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight    (outputs, r)
    base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta   (n, C): the rows themselves

GPT-2 has query, key and value in one matrix, `c_attn`. Our three adapters of rank r are one of rank 3r there: the A
stacked, the B along a diagonal, and alpha three times as large, so that alpha / r stays. One from elsewhere becomes
three that share its A.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minigpt.errors import UserError, plain
from minigpt.files import read_json, replace_json, replacing
from minigpt.finetune.lora import LoraLinear, Part, adapters, linear_layers, put_in
from minigpt.finetune.token_rows import RowsEmbedding, RowsHead, add_rows
from minigpt.model.families import FAMILIES, FLOATING, family_of
from minigpt.model.transformer import GPT
from minigpt.model.weights import Tensors, read_tensors, save_tensors

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"
_PREFIX = "base_model.model."
_MATRICES = (".lora_A.weight", ".lora_B.weight")
_ROWS = ".token_adapter.trainable_tokens_delta"
# Tables that were saved as a whole, the trained one first.
_WHOLE = (
    ".modules_to_save.weight", ".weight", ".token_adapter.base_layer.weight", ".original_module.weight",
)  # fmt: skip
# What says nothing about the logits, or is read below.
_UNDERSTOOD = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout",
    "megatron_core", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "runtime_config", "target_modules", "trainable_token_indices", "use_rslora",
}  # fmt: skip
# Settings that may have one of a few values only. How the first weights are drawn matters where that changes the base.
_ONLY: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
    "task_type": ("CAUSAL_LM", None),
}
# The modules that may be saved as a whole.
_TABLES = ("wte", "embed_tokens", "embedding", "lm_head", "head")
_NAME = re.compile(r"\^?\w+(\\?\.\w+)*")


@dataclass
class Adapter:
    """An adapter under our names.

    Attributes:
        parts: of each layer that has one.
        rows: ids of the rows that were trained, in the order of the tables below.
        embedding, head: those rows, (n, C); None for the head of a tied table.
        dropout: in training.
    """

    parts: dict[str, Part]
    rows: list[int] = field(default_factory=list)
    embedding: Tensor | None = None
    head: Tensor | None = None
    dropout: float = 0.0


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter."""
    return (folder / SETTINGS).is_file()


# ------------------------------------------------------------------------------------------------------------- writing


def write_adapter(folder: Path, model: GPT, base: str, trained: Tensors | None = None) -> None:
    """Write the adapters and the trained rows of a model so that `peft` and `minigpt.load` put them in.

    Args:
        folder: made where there is none.
        model: as `swap_in` left it, trained since.
        base: the model that it was put into: a path, as seen from where it is loaded or from the folder, or the name
            of a model of the Hugging Face Hub, with or without hf: before it.
        trained: what is trained in it, by name, as it was at one time; None: as it is.
    """
    found = adapters(model)
    trained = dict(model.named_parameters()) if trained is None else trained
    table = _module_names(model)
    parts: dict[str, Part] = {}
    for theirs, ours in table.items():
        if found.keys() & set(ours):
            parts[theirs] = _stacked([_part_of(name, model, trained) for name in ours])
    tensors = {
        f"{_PREFIX}{name}{ending}": matrix
        for name, part in parts.items()
        for ending, matrix in zip(_MATRICES, (part.a, part.b), strict=True)
    }
    indices, rows = _written_rows(model, trained)
    tensors = {name: t.detach().cpu().float().contiguous() for name, t in (tensors | rows).items()}
    dropout = next((layer.dropout.p for layer in found.values()), 0.0)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.removeprefix("hf:"),
        "bias": "none",
        "fan_in_fan_out": bool(FAMILIES[family_of(model.config)].transposed),
        "inference_mode": True,
        "lora_dropout": dropout,
        **_ranks(parts, table),
        "trainable_token_indices": indices,
    }
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / WEIGHTS) as temporary:
        save_tensors(tensors, temporary, {"format": "pt"})
    replace_json(folder / SETTINGS, settings)
    # safetensors makes files that only their owner may read.
    (folder / WEIGHTS).chmod((folder / SETTINGS).stat().st_mode & 0o777)


def _module_names(model: GPT) -> dict[str, tuple[str, ...]]:
    """Return Hugging Face's name -> our names, of the linear layers in the blocks of a model."""
    # The adapters hold the layers for which they stand.
    layers = {name.removesuffix(".base") for name in linear_layers(model)}
    family = FAMILIES[family_of(model.config)]
    if not family.per_layer:
        return {name: (name,) for name in layers}
    table = {
        theirs.removesuffix(".weight"): tuple(name.removesuffix(".weight") for name in ours)
        for theirs, ours in family.names(model.config).items()
        if theirs.endswith(".weight")
    }
    return {theirs: ours for theirs, ours in table.items() if layers.issuperset(ours)}


def _table_names(model: GPT) -> tuple[str, str]:
    """Return Hugging Face's names of embedding and head."""
    once = {ours: theirs for theirs, ours in FAMILIES[family_of(model.config)].once.items()}
    embedding, head = (once.get(f"{name}.weight", name) for name in ("embedding", "head"))
    return embedding.removesuffix(".weight"), head.removesuffix(".weight")


def _layer(model: GPT, name: str) -> nn.Linear | LoraLinear:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear | LoraLinear)
    return layer


def _part_of(name: str, model: GPT, trained: Tensors) -> Part:
    """Return the adapter of a layer; of a layer without one, one of rank 0."""
    layer = _layer(model, name)
    if isinstance(layer, LoraLinear):
        return Part(trained[f"{name}.lora_A"], trained[f"{name}.lora_B"], layer.scale)
    outputs, inputs = layer.weight.shape
    return Part(layer.weight.new_zeros(0, inputs), layer.weight.new_zeros(outputs, 0), 0.0)


def _stacked(parts: list[Part]) -> Part:
    """Return adapters that read the same as one: A one below the other, B along a diagonal."""
    if len(parts) == 1:
        return parts[0]
    scale = max(part.scale for part in parts)
    matrices = [part.b if part.scale == scale else part.b * (part.scale / scale) for part in parts]
    return Part(torch.cat([part.a for part in parts]), torch.block_diag(*matrices), scale)


def _ranks(parts: Mapping[str, Part], table: Mapping[str, Any]) -> dict[str, Any]:
    """Return which modules have an adapter, its rank and its alpha: the most common, and by name where they differ."""
    targets = _shortest(parts, table)
    kinds = {name: (part.a.size(0), _alpha(part)) for name, part in parts.items()}
    (rank, alpha), _ = Counter(kinds.values()).most_common(1)[0] if kinds else ((1, 1), 0)
    ranks, alphas = {}, {}
    for target in targets:
        inside = {name: kind for name, kind in kinds.items() if _ends(name, target)}
        uniform = len(set(inside.values())) == 1
        for name, (own_rank, own_alpha) in inside.items():
            key = target if uniform else name
            ranks |= {key: own_rank} if own_rank != rank else {}
            alphas |= {key: own_alpha} if own_alpha != alpha else {}
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": targets,
    }


def _alpha(part: Part) -> float:
    alpha = round(part.scale * part.a.size(0), 9)
    return int(alpha) if alpha == int(alpha) else alpha


def _shortest(parts: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    """Return the ends of the names that are in `parts` and no others of the table; whole names where there are none."""
    targets = []
    for name in sorted(parts):
        pieces = name.split(".")
        ends = (".".join(pieces[-count:]) for count in (1, 2, len(pieces)))
        fitting = (
            end for end in ends if all(other in parts for other in table if _ends(other, end))
        )
        targets.append(next(fitting))
    return sorted(set(targets))


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith(f".{end}")


def _written_rows(model: GPT, trained: Tensors) -> tuple[Any, Tensors]:
    """Return `trainable_token_indices` and the rows themselves under PEFT's names."""
    embedding: nn.Module = model.embedding
    head: nn.Module = model.head
    if not isinstance(embedding, RowsEmbedding) or not isinstance(head, RowsHead):
        return None, {}
    ids = embedding.rows.tolist()
    names = _table_names(model)
    tensors = {f"{_PREFIX}{names[0]}{_ROWS}": embedding.moved(trained["embedding.delta"])}
    if model.config.tie_embeddings:
        return ids, tensors
    tensors[f"{_PREFIX}{names[1]}{_ROWS}"] = head.moved(trained["head.delta"])
    return {name.rpartition(".")[2]: ids for name in names}, tensors


# ------------------------------------------------------------------------------------------------------------- reading


def base_named_in(folder: Path) -> str:
    """Return the name of the model that an adapter belongs to.

    Raises:
        UserError: it names none.
    """
    base = read_json(folder / SETTINGS).get("base_model_name_or_path")
    if not isinstance(base, str) or not base.strip():
        raise UserError(
            f"{folder}: its {SETTINGS} names no model that it belongs to; put a path or a name of the Hub under "
            "base_model_name_or_path"
        )
    return base


def put_adapter(model: GPT, folder: Path) -> GPT:
    """Put the adapter in a folder into its base, freeze all else, and return the model.

    Raises:
        UserError: it is damaged, does not fit the model, or is of a kind that this model does not have.
    """
    adapter = _read_or_refuse(folder, model)
    beyond = sum(row >= model.config.vocab_size for row in adapter.rows)
    if beyond:
        add_rows(model, beyond)
    put_in(model, adapter.parts, rows=adapter.rows, dropout=adapter.dropout)
    tables: tuple[nn.Module, nn.Module] = (model.embedding, model.head)
    for table, rows in zip(tables, (adapter.embedding, adapter.head), strict=True):
        if rows is not None:
            assert isinstance(table, RowsEmbedding | RowsHead)
            table.delta.data.copy_(table.difference(rows))
    return model


def read_trained(folder: Path, model: GPT) -> Tensors:
    """Return what the adapter in a folder has trained, by the names of a model that has one of the same kind in it.

    Raises:
        UserError: as `put_adapter`.
    """
    adapter = _read_or_refuse(folder, model)
    tensors = {}
    for name, part in adapter.parts.items():
        tensors |= {f"{name}.lora_A": part.a, f"{name}.lora_B": part.b}
    tables: dict[str, nn.Module] = {"embedding": model.embedding, "head": model.head}
    for (name, table), rows in zip(tables.items(), (adapter.embedding, adapter.head), strict=True):
        if rows is not None and isinstance(table, RowsEmbedding | RowsHead):
            if adapter.rows != table.rows.tolist():
                raise UserError(f"{folder} cannot be loaded: it trains rows of other tokens")
            tensors[f"{name}.delta"] = table.difference(rows)
    return tensors


def _read_or_refuse(folder: Path, model: GPT) -> Adapter:
    try:
        return _read(folder, model)
    except UserError as error:
        raise UserError(f"{folder} cannot be loaded as an adapter: {error}") from None


def _read(folder: Path, model: GPT) -> Adapter:
    settings = read_json(folder / SETTINGS)
    _refuse_unknown(settings)
    if not (folder / WEIGHTS).is_file() and (folder / _PICKLE).is_file():
        raise UserError(
            f"its weights are in {_PICKLE}, a pickle, which could run anything and is not read; save it again with "
            "safetensors"
        )
    tensors = read_tensors(folder / WEIGHTS)
    _refuse_damaged(tensors)
    adapter = Adapter({}, dropout=_number(settings, "lora_dropout", 0.0, below=1.0))
    _take_rows(adapter, settings, tensors, model)
    table = _module_names(model)
    wanted = _targets(settings, table)
    pairs: dict[str, list[Tensor]] = {}
    for name in table:
        keys = [f"{_PREFIX}{name}{ending}" for ending in _MATRICES]
        there = [key for key in keys if key in tensors]
        if len(there) == 1 or (not there and wanted is not None and name in wanted):
            missing = next(key for key in keys if key not in tensors)
            raise UserError(f"{missing} is missing")
        if there and (wanted is None or name in wanted):
            pairs[name] = [tensors.pop(key) for key in keys]
    if tensors:
        raise UserError(
            f"{plain(min(tensors))} has no place in this model, or is not among its target_modules"
        )
    for name, (a, b) in pairs.items():
        adapter.parts |= _parts(name, table[name], a, b, settings, model)
    if not adapter.parts and not adapter.rows:
        raise UserError("it adapts nothing")
    return adapter


def _refuse_unknown(settings: Mapping[str, Any]) -> None:
    """Refuse settings under which the logits would be others than those that are computed here."""
    if settings.get("peft_type") != "LORA":
        raise UserError(f"its peft_type is {plain(repr(settings.get('peft_type')))}; wanted LORA")
    for name, value in settings.items():
        if name == "modules_to_save" and isinstance(value, list):
            known = all(str(one).rpartition(".")[2] in _TABLES for one in value)
        elif name in _ONLY:
            known = any(type(value) is type(one) and value == one for one in _ONLY[name])
        else:
            known = name in _UNDERSTOOD or value is None or value in (False, {}, [], "")
        if not known:
            raise UserError(
                f"its {plain(name)} is {plain(repr(value), 60)}, which is not supported here; merge it with peft "
                "(merge_and_unload), and load the result"
            )


def _refuse_damaged(tensors: Tensors) -> None:
    for name, tensor in tensors.items():
        if tensor.dtype not in FLOATING:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise UserError(f"{plain(name)} is {kind}, wanted floating point")
        if tensor.dim() != 2:
            raise UserError(f"{plain(name)} has {tensor.dim()} dimensions, wanted 2")
        if not tensor.isfinite().all():
            raise UserError(f"{plain(name)} holds numbers that are not finite")


def _number(settings: Mapping[str, Any], name: str, default: float, *, below: float = 1e9) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < below:
        raise UserError(
            f"its {name} is {plain(repr(value), 60)}; wanted a number from 0 to {below:g}"
        )
    return float(value)


def _targets(settings: Mapping[str, Any], names: Iterable[str]) -> set[str] | None:
    """Return the modules that the settings name; None where they say it by a pattern, and the tensors show it.

    Patterns are not run: one of them can take longer than anyone waits.
    """
    listed, layers = settings.get("target_modules"), settings.get("layers_to_transform")
    if listed is None and settings.get("trainable_token_indices") is not None:
        return None
    if isinstance(listed, str) or settings.get("exclude_modules"):
        return None
    if not isinstance(listed, list) or not all(isinstance(end, str) for end in listed):
        raise UserError(
            f"its target_modules are {plain(repr(listed), 60)}; wanted a list of names or a pattern"
        )
    found = {name for name in names if any(_ends(name, end) for end in listed)}
    if layers in (None, []):
        return found
    numbers = layers if isinstance(layers, list) else [layers]
    return {name for name in found if any(f".{number}." in name for number in numbers)}


def _parts(
    name: str, ours: tuple[str, ...], a: Tensor, b: Tensor, settings: Mapping[str, Any], model: GPT
) -> dict[str, Part]:
    """Return the adapters of our layers that one module of Hugging Face stands for."""
    shapes = [tuple(_layer(model, own).weight.shape) for own in ours]
    outputs, inputs = sum(shape[0] for shape in shapes), shapes[0][1]
    rank = _by_pattern(settings, "rank_pattern", "r", name, 8)
    if rank != int(rank) or rank < 1:
        raise UserError(f"the rank of {name} is {rank:g}; wanted a whole number from 1 on")
    for ending, matrix, shape in zip(
        _MATRICES, (a, b), ((int(rank), inputs), (outputs, int(rank))), strict=True
    ):
        if tuple(matrix.shape) != shape:
            raise UserError(f"{name}{ending} is {tuple(matrix.shape)}, wanted {shape}")
    alpha = _by_pattern(settings, "alpha_pattern", "lora_alpha", name, 8)
    # Kalajdzievski (2023), "rsLoRA": divided by the root of the rank.
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    a, b = a.float(), b.float()
    lower = b.split([shape[0] for shape in shapes])
    upper = [a] * len(ours)
    if len(ours) > 1 and (blocks := _blocks(lower)) is not None:
        upper, lower = list(a.tensor_split(len(ours))), blocks
    return {
        own: Part(one.clone(), other.clone(), scale)
        for own, one, other in zip(ours, upper, lower, strict=True)
    }


def _blocks(lower: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Return the blocks of matrices that are zero but on a diagonal, as `_stacked` makes them; None of others."""
    rank = lower[0].size(1)
    if rank % len(lower):
        return None
    width = rank // len(lower)
    blocks = tuple(b[:, i * width : (i + 1) * width] for i, b in enumerate(lower))
    return blocks if torch.equal(torch.block_diag(*blocks), torch.cat(lower)) else None


def _by_pattern(
    settings: Mapping[str, Any], patterns: str, common: str, name: str, default: float
) -> float:
    """Return the number that a pattern has for a module, else the one for all; the first pattern that fits counts."""
    table = settings.get(patterns) or {}
    if not isinstance(table, dict):
        raise UserError(f"its {patterns} is {plain(repr(table), 60)}; wanted names and numbers")
    for key in table:
        if not _NAME.fullmatch(key):
            raise UserError(
                f"its {patterns} has the pattern {plain(key, 60)!r}, which is not run here; wanted names of modules"
            )
        end = key.removeprefix("^").replace("\\.", ".")
        if name == end or (not key.startswith("^") and _ends(name, end)):
            return _number(table, key, default)
    return _number(settings, common, default)


def _take_rows(adapter: Adapter, settings: Mapping[str, Any], tensors: Tensors, model: GPT) -> None:
    """Move the trained rows from the tensors into the adapter, those of whole tables too.

    `peft` writes whole tables where they have grown, or where `modules_to_save` names them. Of one of them those rows
    are taken that the base does not have, or has otherwise.
    """
    names = _table_names(model)
    of_table = _token_indices(settings, names)
    found: list[dict[int, Tensor]] = []
    for name, table in zip(names, (model.embedding, model.head), strict=True):
        there = (tensors.pop(f"{_PREFIX}{name}{ending}", None) for ending in _WHOLE)
        whole = [one for one in there if one is not None]
        rows = _changed(name, whole[0], table.weight.detach()) if whole else {}
        key = f"{_PREFIX}{name}{_ROWS}"
        ids = of_table.get(
            name, of_table[names[0]] if key in tensors and names[0] in of_table else []
        )
        if ids and key in tensors:
            trained = tensors.pop(key)
            if tuple(trained.shape) != (len(ids), model.config.n_embd):
                raise UserError(
                    f"{key} is {tuple(trained.shape)}, wanted {(len(ids), model.config.n_embd)}"
                )
            rows |= dict(zip(ids, trained.float(), strict=True))
        elif ids and not (model.config.tie_embeddings and found and found[0].keys() >= set(ids)):
            raise UserError(f"{key} is missing")
        found.append(rows)
    embedding, head = found
    if model.config.tie_embeddings:
        if not all(
            one in embedding and torch.equal(row, embedding[one]) for one, row in head.items()
        ):
            raise UserError(
                f"its rows of {names[1]} are not those of {names[0]}, but the model has one table for both"
            )
        if settings.get("modules_to_save") and embedding.keys() != head.keys():
            raise UserError(
                f"its modules_to_save part {names[0]} from {names[1]}, but the model has one table for both"
            )
        head = embedding
    _join_rows(adapter, embedding, head, model)


def _token_indices(settings: Mapping[str, Any], names: tuple[str, str]) -> dict[str, list[int]]:
    """Return the ids whose rows were trained, by the table's name."""
    indices = settings.get("trainable_token_indices")
    if indices is None:
        return {}
    found = {}
    for key, ids in (indices if isinstance(indices, dict) else {names[0]: indices}).items():
        name = next((name for name in names if _ends(name, key)), None)
        if name is None:
            raise UserError(
                f"its trainable_token_indices name {plain(key)}; wanted {' or '.join(names)}"
            )
        if not isinstance(ids, list) or not ids or not all(type(one) is int for one in ids):
            raise UserError(
                f"its trainable_token_indices are {plain(repr(ids), 60)}; wanted a list of ids"
            )
        if len(set(ids)) < len(ids) or min(ids) < 0:
            raise UserError("its trainable_token_indices have ids twice or below 0")
        found[name] = ids
    return found


def _changed(name: str, table: Tensor, base: Tensor) -> dict[int, Tensor]:
    """Return the rows of a table that the base does not have, or has otherwise."""
    known = base.size(0)
    if table.size(1) != base.size(1) or table.size(0) < known:
        raise UserError(
            f"{name} is {tuple(table.shape)}, wanted {tuple(base.shape)} or rows beyond them"
        )
    table = table.float()
    other = (table[:known] != base.float().cpu()).any(dim=1).nonzero().flatten().tolist()
    return {row: table[row] for row in (*other, *range(known, table.size(0)))}


def _join_rows(
    adapter: Adapter, embedding: dict[int, Tensor], head: dict[int, Tensor], model: GPT
) -> None:
    """Put the rows of two tables into one list of ids; one that was trained in one table is as before in the other."""
    known = model.config.vocab_size
    adapter.rows = sorted(embedding.keys() | head.keys())
    beyond = [row for row in adapter.rows if row >= known]
    # New rows follow the old ones without a gap, so that nobody is asked for more room than was written.
    if beyond != list(range(known, known + len(beyond))) or not all(
        row in embedding and row in head for row in beyond
    ):
        raise UserError(
            f"it trains the row {beyond[-1]}, but not every one from {known}, the first that the model does not have"
        )
    tables = []
    for rows, table in ((embedding, model.embedding.weight), (head, model.head.weight)):
        base = table.detach().float().cpu()
        tables.append([rows[row] if row in rows else base[row] for row in adapter.rows])
    if adapter.rows:
        adapter.embedding = torch.stack(tables[0])
        adapter.head = None if model.config.tie_embeddings else torch.stack(tables[1])
