import argparse
import hashlib
import http.server
import json
import socket
import threading
import typing
from functools import partial
from pathlib import Path

import pytest
import tiktoken
import tiktoken.load

from minigpt.errors import UserError
from minigpt.files import cache_folder
from minigpt.tokenizer import cutting, find_tokenizer, named, vocabulary_size
from minigpt.tokenizer.content import BYTES_BY_NAME
from minigpt.tokenizer.patterns import END_OF_TEXT

from .conftest import shared

FILES = ("vocab.bpe", "encoder.json")
# As in the encoder.py that was published with GPT-2.
PUBLISHED = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


@pytest.fixture(scope="module")
def gpt2():
    return shared("gpt2")


def write_small(folder: Path, merges=("a b", "ab c", "Ġ abc"), version="#version: 0.2\n") -> Path:
    """Write the files of a tokenizer as GPT-2's: bytes in the order of their names, merges, end of text."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [*sorted(BYTES_BY_NAME), *(merge.replace(" ", "") for merge in merges), END_OF_TEXT]
    (folder / "encoder.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (folder / "vocab.bpe").write_text(version + "".join(f"{m}\n" for m in merges), "utf-8")
    return folder


def plain_tiktoken(folder: Path) -> tiktoken.Encoding:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", "")  # keep no copy
        ranks = tiktoken.load.data_gym_to_mergeable_bpe_ranks(*(str(folder / f) for f in FILES))
    return tiktoken.Encoding(
        "", pat_str=PUBLISHED, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: len(ranks)}
    )


@pytest.mark.slow
def test_gpt2_gives_a_large_text_the_ids_of_tiktoken(gpt2, shakespeare):
    sources = [Path(module.__file__).read_text() for module in (argparse, typing, http.server)]
    text = (
        shakespeare.read_text()
        + "👩‍👩‍👧‍👦 🇩🇪🙂 漢字\u3000e\u0301 \x00\r\n" * 500
        + "".join(sources)
    )
    assert len(text) > 5 * cutting.PIECE
    made = find_tokenizer(str(gpt2))
    ids = made.encode(text)
    assert made.bulk is not None
    assert ids == plain_tiktoken(gpt2).encode_ordinary(text)
    assert ids[-50_000:] == made.backend.encode(text).ids[-50_000:]
    assert made.decode(ids) == text


def test_gpt2_is_what_everybody_knows(gpt2):
    made = find_tokenizer(str(gpt2))
    assert (made.vocab_size, made.eos_id, made.kind) == (50257, 50256, "bpe")
    assert made.specials == {END_OF_TEXT: 50256}
    assert made.encode("Hello, I'm a language model,") == [
        15496,
        11,
        314,
        1101,
        257,
        3303,
        2746,
        11,
    ]


def test_the_files_of_gpt2_are_those_that_were_published(gpt2):
    for name, sha256 in named._GPT2.items():
        assert hashlib.sha256((gpt2 / name).read_bytes()).hexdigest() == sha256


def test_a_tokenizer_in_the_form_of_gpt2(tmp_path):
    made, theirs = find_tokenizer(str(write_small(tmp_path))), plain_tiktoken(tmp_path)
    assert (made.vocab_size, made.eos_id) == (260, 259)
    assert made.pieces[:3] == [b"!", b'"', b"#"]
    for text in ("abc abc é\n🙂 ab c", END_OF_TEXT):
        assert made.encode(text) == theirs.encode_ordinary(text)
        assert made.decode(made.encode(text)) == text


def test_a_saved_one_is_found_again_with_the_same_ids(tmp_path):
    made = find_tokenizer(str(write_small(tmp_path / "gpt2")))
    made.save(tmp_path)
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        found = find_tokenizer(str(place))
        assert found.fingerprint() == made.fingerprint()
        assert found.encode("abc abc") == made.encode("abc abc") == [257, 258]


def test_what_is_not_there_is_refused_with_the_nearest_name(tmp_path):
    with pytest.raises(
        UserError, match=r"no tokenizer at gtp2 \(did you mean 'gpt2'\?\); pass gpt2, a"
    ):
        find_tokenizer("gtp2")
    with pytest.raises(UserError, match="there is no tokenizer at"):
        find_tokenizer(str(tmp_path))


def refusal(name) -> str:
    with pytest.raises(UserError) as refused:
        find_tokenizer(str(name))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


def move_the_end(folder: Path) -> None:
    vocabulary = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps(vocabulary | {END_OF_TEXT: 0}))


DAMAGES = {
    "encoder.json cannot be read as JSON": lambda f: cut(f / "encoder.json", 1000),
    "encoder.json holds a JSON list": lambda f: (f / "encoder.json").write_text("[]"),
    "wanted it to come last": move_the_end,
    "vocab.bpe and encoder.json are not files of GPT-2's tokenizer: failed to extract": (
        lambda f: (f / "encoder.json").write_text('{"a": "b"}')
    ),
    "tokenizer: not enough values": lambda f: cut(f / "vocab.bpe", -5),
    "Token `zz` out of vocabulary": lambda f: (f / "vocab.bpe").write_text("\nb zz\n"),
    "codec can't decode": lambda f: (f / "vocab.bpe").write_bytes(b"\n\xff \xfe\n"),
    "has 2 merges, but ": lambda f: cut(f / "vocab.bpe", -7),
    "259 pieces; wanted one merge for each": lambda f: write_small(f, version=""),
}


@pytest.mark.parametrize(("sentence", "damage"), DAMAGES.items(), ids=range(len(DAMAGES)))
def test_damaged_files_are_refused(tmp_path, sentence, damage):
    folder = write_small(tmp_path / "gpt2")
    damage(folder)
    message = refusal(folder)
    assert message.startswith(str(folder))
    assert sentence in message


# ------------------------------------------------------------------------------------------------------- by its name


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder, with an empty cache and small files in the place of GPT-2's."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = write_small(tmp_path / "served")
    hashes = {name: hashlib.sha256((served / name).read_bytes()).hexdigest() for name in FILES}
    monkeypatch.setattr(named, "_GPT2", hashes)
    return served


@pytest.fixture
def server(elsewhere, monkeypatch):
    """Serve those files on this machine, and tell what was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *line):
            asked.append(self.path)

        def log_message(self, *line):
            pass

    handler = partial(Handler, directory=elsewhere)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        monkeypatch.setattr(named, "_ADDRESS", f"http://127.0.0.1:{running.server_port}")
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield asked
        running.shutdown()
        thread.join()


@pytest.fixture
def nobody(elsewhere, monkeypatch):
    """At the address, nobody takes the call."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(named, "_ADDRESS", f"http://127.0.0.1:{taken.getsockname()[1]}")
        yield


def kept() -> list[str]:
    return sorted(p.name for p in cache_folder().rglob("*") if p.is_file())


def test_gpt2_is_downloaded_once_and_kept(server):
    prints = {find_tokenizer("gpt2").fingerprint() for _ in range(3)}
    assert server == ["/vocab.bpe", "/encoder.json"]
    assert kept() == ["encoder.json", "vocab.bpe"]
    assert prints == {find_tokenizer(str(cache_folder() / "tokenizers" / "gpt2")).fingerprint()}


@pytest.mark.usefixtures("nobody")
def test_gpt2_in_the_cache_needs_no_network():
    write_small(cache_folder() / "tokenizers" / "gpt2")
    assert find_tokenizer("gpt2").encode(" abc") == [258]


@pytest.mark.usefixtures("nobody")
def test_a_folder_of_that_name_comes_first():
    write_small(cache_folder() / "tokenizers" / "gpt2")
    write_small(Path("gpt2"), merges=("a b",))
    assert find_tokenizer("gpt2").vocab_size == 258


@pytest.mark.usefixtures("nobody")
def test_how_many_ids_gpt2_has_is_known_without_it_unless_a_folder_of_that_name_says_otherwise():
    assert vocabulary_size("gpt2") == 50_257
    assert kept() == []
    Path("gpt2").mkdir()
    assert vocabulary_size("gpt2") == 50_257
    write_small(Path("gpt2"), merges=("a b",))
    assert vocabulary_size("gpt2") == 258


@pytest.mark.usefixtures("nobody")
def test_without_a_network_there_is_one_sentence_that_says_what_to_do():
    message = refusal("gpt2")
    assert message.startswith(f"{named._ADDRESS}/vocab.bpe could not be reached (")
    assert message.endswith(
        "pass a folder with GPT-2's vocab.bpe and encoder.json as the tokenizer instead"
    )
    assert kept() == []


def test_another_file_than_the_published_one_is_not_kept(server, elsewhere):
    (elsewhere / "encoder.json").write_text('{"a": 0}')
    for _ in range(2):
        message = refusal("gpt2")
        assert "encoder.json is not the file that it was: its SHA-256 is " in message
        assert f"wanted {named._GPT2['encoder.json']}; pass a folder with GPT-2's" in message
    assert server == ["/vocab.bpe", "/encoder.json", "/encoder.json"]
    assert kept() == ["vocab.bpe"]


def test_a_file_that_has_gone_is_told(server, elsewhere):
    (elsewhere / "vocab.bpe").unlink()
    assert "/vocab.bpe could not be reached (File not found); pass" in refusal("gpt2")
    assert server == ["/vocab.bpe"]
    assert kept() == []
