import dataclasses
import json

import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file

from minigpt.config import DataConfig, OptimConfig, RunConfig, SampleConfig, TrainConfig
from minigpt.data import encode, stream
from minigpt.data.prepare import prepare_folder
from minigpt.data.sources import HubReader
from minigpt.data.stream import TokenStream, open_stream
from minigpt.data.tokens import open_prepared
from minigpt.errors import UserError
from minigpt.fit import fit
from minigpt.pretrain import prepare_run, train
from minigpt.rundir import RunDir

from .conftest import nonsense, tiny
from .test_pretrain import without_times

DOCUMENTS = [nonsense(120, seed=i) for i in range(90)]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Parquet files as a data set of the Hub has them, streamed by the same code; small shards; a cache of its own."""
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(encode, "PORTION", 1000)
    monkeypatch.setattr(stream, "SHARD_TOKENS", 1500)
    folder = tmp_path / "corpus"
    folder.mkdir()
    for i in range(3):
        table = pyarrow.table({"text": DOCUMENTS[30 * i : 30 * i + 30], "id": list(range(30))})
        pyarrow.parquet.write_table(table, folder / f"part-{i}.parquet", row_group_size=7)
    return f"hf:{folder}"


def settings(corpus, **changes) -> DataConfig:
    shape = {"source": corpus, "vocab_size": 300, "val_documents": 10, "stream": True}
    return DataConfig(**(shape | changes))


def test_the_first_documents_are_held_out_and_the_rest_comes_as_it_is_asked_for(corpus):
    tokens = open_stream(settings(corpus))
    assert isinstance(tokens.train, TokenStream)
    held_out = tokens.tokenizer.decode(tokens.val[:].tolist())
    assert held_out.split("<|endoftext|>") == DOCUMENTS[:10]
    begun = len(tokens.train)
    assert tokens.train.reach(begun + 1)
    assert not tokens.train.reach(10**9)
    text = tokens.tokenizer.decode(tokens.train[:].tolist())
    assert text.split("<|endoftext|>") == DOCUMENTS[10:]
    assert begun < len(tokens.train) / 2


def test_at_its_end_it_is_what_prepare_makes(corpus, tmp_path):
    tokens = open_stream(settings(corpus))
    tokens.train.reach(10**9)
    made = prepare_folder(settings(corpus, stream=False), tmp_path / "out", shard_tokens=1500)
    (folder,) = (tmp_path / "cache" / "tokens").iterdir()
    assert open_prepared(folder).facts == made.facts
    assert open_stream(settings(corpus)).facts == made.facts
    for path in (tmp_path / "out").glob("*.bin"):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_one_that_was_stopped_goes_on_through_the_data_sets_own_state(corpus, monkeypatch):
    first = open_stream(settings(corpus))
    first.train.reach(len(first.train) + 1)
    seen = len(first.train)
    first.train.close()
    read = []
    original = stream.write_part

    def watched(job, part, place):
        reader = job.source.read

        def read_from(number, bookmark=None):
            read.append((number, bookmark))
            return reader(number, bookmark)

        object.__setattr__(job, "source", _Watched(job.source, read_from))
        return original(job, part, place)

    monkeypatch.setattr(stream, "write_part", watched)
    again = open_stream(settings(corpus))
    again.train.reach(10**9)
    text = again.tokenizer.decode(again.train[:].tolist())
    assert text.split("<|endoftext|>") == DOCUMENTS[10:]
    assert again.train[:seen].tolist() == first.train[:seen].tolist()
    number, bookmark = read[0]
    assert bookmark is not None or number > 0  # not from the beginning
    assert bookmark is None or "examples_iterable" in json.dumps(bookmark)


class _Watched:
    def __init__(self, source, read):
        self._source, self.read = source, read

    def __getattr__(self, name):
        return getattr(self._source, name)


def run_settings(corpus, steps) -> RunConfig:
    return RunConfig(
        model=dataclasses.replace(tiny(), vocab_size=0),
        data=settings(corpus),
        optim=OptimConfig(lr=1e-3, warmup_steps=5),
        train=TrainConfig(steps=steps, batch_size=8, eval_every=50, eval_tokens=200, checkpoint_every=20, log_every=10),
        sample=SampleConfig(max_tokens=5, prompt="the"),
    )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_is_stopped_in_the_first_epoch_and_again_in_the_second_ends_bit_for_bit_the_same(
    corpus, tmp_path, monkeypatch
):
    """About 12,000 tokens come to 125 steps of 8 windows: 160 steps read them in order once, then shuffled."""
    whole = train(run_settings(corpus, 160), tmp_path / "whole")
    monkeypatch.setenv("MINIGPT_CACHE", str(tmp_path / "second cache"))
    out = tmp_path / "out"
    for stop_at in (43, 139):
        _train_until(run_settings(corpus, 160), out, stop_at)
    train(run_settings(corpus, 160), out)
    rows = [without_times(RunDir(run).metrics) for run in (whole, out)]
    assert rows[0] == rows[1]
    epochs = [row["epoch"] for row in rows[0]]
    assert epochs[0] == 0
    assert epochs[-1] > 1
    a, b = _weights(whole), _weights(out)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def _weights(run):
    return load_file(RunDir(run).newest_whole()[0].path / "model.safetensors")


def _train_until(config, out, step):
    job = prepare_run(config, out)
    job.should_stop = lambda: job.progress.step >= step
    fit(job, job.progress)
    job.place.leave()


def test_what_cannot_be_streamed_is_refused(corpus, tmp_path):
    for changes, sentence in (
        ({"tokenizer": "char"}, "needs the whole text first"),
        ({"drop_duplicates": True}, "needs the whole text first"),
    ):
        config = dataclasses.replace(run_settings(corpus, 5), data=settings(corpus, **changes))
        with pytest.raises(UserError, match=sentence):
            train(config, tmp_path / "run")
    config = run_settings(corpus, 0)
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=1.0))
    with pytest.raises(UserError, match="whose length nobody knows"):
        train(config, tmp_path / "run")


def test_a_stream_that_breaks_off_says_so_and_goes_on_later(corpus, tmp_path, monkeypatch):
    original = HubReader._records

    def broken(self):
        for number, record in enumerate(original(self)):
            if number == 20:
                raise UserError(f"{self._name} broke off: lost; run the same command again")
            yield record

    with monkeypatch.context() as patch:
        patch.setattr(HubReader, "_records", broken)
        with pytest.raises(UserError, match="broke off"):
            open_stream(settings(corpus)).train.reach(10**9)
    tokens = open_stream(settings(corpus))
    tokens.train.reach(10**9)
    assert (
        tokens.tokenizer.decode(tokens.train[:].tolist()).split("<|endoftext|>") == DOCUMENTS[10:]
    )
