"""The name or the place of a tokenizer in, `Tokenizer` out: GPT-2's own by name, any other from its files."""

from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models

from minigpt.config import did_you_mean
from minigpt.download import download
from minigpt.errors import UserError
from minigpt.files import cache_folder, place_of, read_json
from minigpt.tokenizer.checks import refusing
from minigpt.tokenizer.content import pre_tokenizer
from minigpt.tokenizer.fast import Tokenizer
from minigpt.tokenizer.patterns import END_OF_TEXT

NAMED = ("gpt2",)
GPT2_IDS = 50_257  # 256 bytes, 50,000 merges, end of text
# As published with GPT-2 (Radford et al., 2019): {file: SHA-256}.
_ADDRESS = "https://openaipublic.blob.core.windows.net/gpt-2/encodings/main"
_GPT2 = {
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
}


def find_tokenizer(name: str) -> Tokenizer:
    """Return a tokenizer: `gpt2`, a `tokenizer.json`, a folder with one, or one with `vocab.bpe` and `encoder.json`.

    GPT-2's own is read from a folder `gpt2` here, else from the cache, else downloaded once.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = place_of(name)
    whole = path is not None and (path / "tokenizer.json").is_file()
    if path is not None and not whole and (files := _files_of_gpt2(path)):
        return _read_gpt2(*files)
    if name == "gpt2":
        kept = cache_folder() / "tokenizers" / "gpt2"
        instead = "pass a folder with GPT-2's vocab.bpe and encoder.json as the tokenizer instead"
        for file, sha256 in _GPT2.items():
            download(f"{_ADDRESS}/{file}", kept / file, sha256=sha256, instead=instead)
        return _read_gpt2(*(kept / file for file in _GPT2))
    if path is None:
        raise UserError(
            f"there is no tokenizer at {name}{did_you_mean(name, ('bpe', 'char', *NAMED))}; pass gpt2, a "
            "tokenizer.json, or a folder that holds one"
        )
    return Tokenizer.load(path)


def vocabulary_size(name: str) -> int:
    """Return the ids of `find_tokenizer(name)`; those of GPT-2's own are known without fetching it.

    Raises:
        UserError: as `find_tokenizer`.
    """
    path = place_of(name)
    if name == "gpt2" and (path is None or not _files_of_gpt2(path)):
        return GPT2_IDS
    return find_tokenizer(name).vocab_size


def _files_of_gpt2(folder: Path) -> tuple[Path, Path] | None:
    """Return merges and vocabulary in a folder: as published, or as `transformers` calls them; or None."""
    for names in (tuple(_GPT2), ("merges.txt", "vocab.json")):
        merges, vocabulary = (folder / name for name in names)
        if merges.is_file() and vocabulary.is_file():
            return merges, vocabulary
    return None


def _read_gpt2(merges_file: Path, vocabulary_file: Path) -> Tokenizer:
    """Return the tokenizer of GPT-2's own two files: {piece: id}, and a merge on each line after the first."""
    vocabulary = read_json(vocabulary_file)
    end = vocabulary.pop(END_OF_TEXT, len(vocabulary))
    with refusing(f"{merges_file} and {vocabulary_file.name} are not files of GPT-2's tokenizer"):
        lines = merges_file.read_text(encoding="utf-8").splitlines()
        merges = [(left, right) for left, right in (line.split() for line in lines[1:] if line)]
        backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    if len(merges) + 256 != len(vocabulary):
        raise UserError(
            f"{merges_file} has {len(merges):,} merges, but {vocabulary_file} has {len(vocabulary):,} pieces; "
            "wanted one merge for each piece but the 256 bytes"
        )
    backend.pre_tokenizer = pre_tokenizer("gpt2")
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    tokenizer = Tokenizer(backend)
    if tokenizer.eos_id != end:
        raise UserError(
            f"{vocabulary_file} gives {END_OF_TEXT} the id {end}, but the other pieces take up "
            f"{len(vocabulary)} ids; wanted it to come last"
        )
    return tokenizer
