"""What several tests stand on: a cache of their own, small texts, small shapes."""

import importlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import hypothesis
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, processors, trainers

# Read by the libraries of Hugging Face when they are first imported.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_DATASETS_CACHE": str(Path(tempfile.gettempdir()) / "minigpt-tests-datasets"),
}

from minigpt.config import (
    DataConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SampleConfig,
    TrainConfig,
)

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

SHARED_DATA = Path(__file__).parent.parent.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let files with many slow tests come first, so that of several workers none has a long one left at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIGPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_arithmetic():
    """What a run in this process tells it about the smallest numbers is over when the test is."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


def shared(name: str) -> Path:
    """Return a file or folder of the shared data; a test that needs it skips where it is not there."""
    if not (SHARED_DATA / name).exists():
        pytest.skip(f"needs {name} in the folder of shared data")
    return SHARED_DATA / name


@pytest.fixture(scope="module")
def browser():
    """Return a real browser; on a machine without one a test that needs it skips, but not in CI."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if "CI" not in os.environ:
        pytest.importorskip("playwright")
        if path is None:
            pytest.skip("needs Chromium (apt-get install chromium)")
    library = importlib.import_module("playwright.sync_api")
    # The switches keep it from asking its maker for anything by itself.
    switches = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]  # fmt: skip
    with library.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=switches)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def shakespeare():
    return shared("tinyshakespeare.txt")


def nonsense(words: int, seed: int = 0) -> str:
    """Return text that is made of few words, so that a small model learns something from it quickly."""
    rng = random.Random(seed)
    lexicon = ["the", "cat", "dog", "sat", "ran", "on", "under", "a", "mat", "tree", "and", "then"]
    sentences = [" ".join(rng.choices(lexicon, k=8)) + ".\n" for _ in range(words // 8)]
    return "".join(sentences)


@pytest.fixture(scope="session")
def small_text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "small.txt"
    path.write_text(nonsense(4000))
    return path


@pytest.fixture(scope="session")
def trained(small_text, tmp_path_factory):
    """The directory of a small run that has learnt something."""
    # Imported here: many tests need neither.
    from minigpt.pretrain import train

    config = RunConfig(
        model=ModelConfig(block_size=48, n_layer=2, n_head=2, n_embd=32),
        data=DataConfig(source=str(small_text), tokenizer="bpe", vocab_size=320),
        optim=OptimConfig(lr=1e-2, warmup_steps=5),
        train=TrainConfig(
            steps=120, batch_size=8, eval_every=120, checkpoint_every=120, dtype="fp32"
        ),
        sample=SampleConfig(prompt="the ", max_tokens=5),
    )
    return train(config, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture(scope="session")
def tuned(tmp_path_factory):
    """Two runs that have learnt conversations: all weights, and an adapter of that to which others are answers."""
    from .talking import tuned_in

    return tuned_in(tmp_path_factory.mktemp("tuned"))


@pytest.fixture
def small_config(small_text):
    """A run of seconds with everything in it that exactness depends on: dropout, accumulation, several epochs."""
    return small_run(small_text)


def small_run(text: Path, dropout: float = 0.1) -> RunConfig:
    """Return the settings of a run of seconds on a text."""
    return RunConfig(
        model=ModelConfig(block_size=16, n_layer=2, n_head=2, n_embd=16, dropout=dropout),
        data=DataConfig(source=str(text), tokenizer="char"),
        optim=OptimConfig(lr=1e-2, warmup_steps=5),
        train=TrainConfig(
            steps=24, batch_size=8, micro_batch_size=4, eval_every=8, eval_tokens=500, checkpoint_every=6, log_every=4,
            dtype="fp32",  # auto would try what is faster
        ),
        sample=SampleConfig(prompt="the ", max_tokens=20),
    )  # fmt: skip


def sentencepiece_like(text: str, vocab_size: int = 320) -> tokenizers.Tokenizer:
    """Return a tokenizer of the kind that Llama 2 has: ▁ for a space, bytes for what is unknown, <s> before a text."""
    made = tokenizers.Tokenizer(models.BPE())
    space = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    made.normalizer = normalizers.Sequence(space)
    specials = ["<unk>", "<s>", "</s>"]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[*specials, *byte_pieces], show_progress=False
    )
    made.train_from_iterator([text], trainer)
    learnt = json.loads(made.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    made = tokenizers.Tokenizer(
        models.BPE(learnt["vocab"], merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    made.normalizer = normalizers.Sequence(space)
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(specials)
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return made


SWITCHES = {
    "gpt2": {"position": "learned", "norm": "layernorm", "mlp": "gelu", "bias": True},
    "gpt2, relu2, no bias": {"position": "learned", "norm": "layernorm", "mlp": "relu2"},
    "gpt2, exact gelu": {
        "position": "learned",
        "norm": "layernorm",
        "mlp": "gelu_exact",
        "bias": True,
    },
    "gpt2, untied": {
        "position": "learned",
        "norm": "layernorm",
        "mlp": "gelu",
        "tie_embeddings": False,
    },
    "llama": {"n_kv_head": 2},
    "llama, bias, multi-query": {"bias": True, "n_kv_head": 1},
    "llama, untied, wide heads": {"tie_embeddings": False, "head_dim": 16},
    "qwen3": {"qk_norm": True, "n_kv_head": 2, "head_dim": 16, "tie_embeddings": False},
    "arcee": {"mlp": "relu2"},
    "own: gate": {"attention_gate": "silu", "n_kv_head": 1, "bias": True},
    "own: learned with rmsnorm": {"position": "learned", "qk_norm": True},
    "own: rope with layernorm": {"norm": "layernorm", "mlp": "gelu"},
}


def tiny(**switches) -> ModelConfig:
    shape = {"vocab_size": 29, "block_size": 12, "n_layer": 2, "n_head": 4, "n_embd": 32}
    return ModelConfig(**(shape | switches))


@pytest.fixture(scope="session")
def world():
    """A server that runs, with small models; its tests leave it as it is."""
    from .serving import world

    with world() as running:
        yield running


@pytest.fixture(scope="session")
def paged(trained, tmp_path_factory):
    """A server with a page that shows two runs, one of them still training; its tests leave it as it is."""
    from minigpt.serve.runs import Runs
    from minigpt.serve.site import Site

    from .serving import world
    from .test_runs import learning, make_run

    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(trained, folder / "trained")
    make_run(folder, "live", *learning(1.5, steps=60))
    (folder / "live" / ".lock.json").write_text("{}")
    with world(Site(Runs(folder))) as running:
        running.models.load(str(folder / "trained"))
        yield running
