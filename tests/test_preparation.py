import hashlib
import itertools
import json
import signal
import subprocess
import sys
import time

import pytest

from minigpt.config import DataConfig
from minigpt.data import encode
from minigpt.data.preparation import begin, go_on
from minigpt.data.prepare import prepare, prepare_folder
from minigpt.errors import UserError

from . import warm
from .conftest import nonsense


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Three parts, each with several shards."""
    monkeypatch.setattr("minigpt.data.sources.PART_BYTES", 20_000)
    monkeypatch.setattr("minigpt.tokenizer.cutting.PIECE", 500)
    monkeypatch.setattr(encode, "PORTION", 1000)
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(30):
        (folder / f"{i:02d}.txt").write_text(nonsense(400, seed=i))
    return folder


def settings(text, **changes) -> DataConfig:
    return DataConfig(**({"source": str(text), "vocab_size": 300} | changes))


def content(folder) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def whole(text, out, **changes):
    prepare_folder(settings(text, **changes), out, workers=2, shard_tokens=1500)
    return content(out)


def test_the_folder_holds_shards_manifest_and_tokenizer_and_nothing_else(text, tmp_path):
    names = set(whole(text, tmp_path / "out"))
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    shards = {shard["file"] for shard in manifest["shards"]}
    assert len(shards) > 6
    assert names == shards | {"manifest.json", "tokenizer.json", "tokenizer_config.json"}
    assert sum(s["documents"] for s in manifest["shards"]) == 30
    assert manifest["split"] == {"by": "every", "value": 0.1}


@pytest.mark.parametrize("steps", [0, 1, 2, 5, 9])
def test_stopped_between_any_two_shards_it_ends_the_same(text, tmp_path, steps):
    expected = whole(text, tmp_path / "whole")
    work = begin(settings(text), str, out=tmp_path / "out", shard_tokens=1500)
    done = (
        state
        for part, place in enumerate(work.places)
        for state in encode.write_part(work.job(), part, place)
    )
    for _ in itertools.islice(done, steps):
        pass
    done.close()
    work.held.close()  # as a kill does
    with pytest.raises(UserError, match="is not whole; run the same"):
        prepare(DataConfig(source=str(tmp_path / "out")))
    assert whole(text, tmp_path / "out") == expected


def test_another_process_goes_on_from_the_plan(text, tmp_path):
    expected = whole(text, tmp_path / "whole")
    begin(settings(text), str, out=tmp_path / "out", shard_tokens=1500)
    for parts in ([2], [0, 1]):
        go_on(tmp_path / "out").encode(parts)
    go_on(tmp_path / "out").finish(str)
    assert content(tmp_path / "out") == expected


def test_a_part_that_is_missing_is_said(text, tmp_path):
    work = begin(settings(text), str, out=tmp_path / "out")
    work.encode([0])
    with pytest.raises(UserError, match=f"{work.source.parts - 1} of {work.source.parts} parts"):
        work.finish(str)


def test_run_again_nothing_is_written(text, tmp_path):
    whole(text, tmp_path / "out")
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    whole(text, tmp_path / "out")
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}


def test_a_damaged_shard_is_found_and_made_again(text, tmp_path):
    expected = whole(text, tmp_path / "out")
    path = tmp_path / "out" / "train-00001-00000.bin"
    path.write_bytes(b"\0" + path.read_bytes()[1:])
    lines = []
    prepare_folder(settings(text), tmp_path / "out", lines.append, shard_tokens=1500)
    assert any("train-00001-00000.bin of" in line and "is damaged" in line for line in lines)
    assert content(tmp_path / "out") == expected


def test_a_folder_with_other_tokens_or_other_things_is_left_alone(text, tmp_path):
    before = whole(text, tmp_path / "out")
    with pytest.raises(UserError, match="holds other tokens"):
        whole(text, tmp_path / "out", val_fraction=0.2)
    assert content(tmp_path / "out") == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match=r"has other things in it \(thesis\.tex\)"):
        whole(text, tmp_path / "mine")
    begin(settings(text), str, out=tmp_path / "begun")
    (text / "00.txt").write_text("changed")
    with pytest.raises(UserError, match="holds the beginning of other tokens"):
        whole(text, tmp_path / "begun")


@pytest.mark.slow
def test_killed_again_and_again_prepare_ends_byte_for_byte_the_same(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("<|endoftext|>".join(nonsense(60_000, seed=i) for i in range(40)))
    options = ["--vocab-size", "300", "--shard-tokens", "60000"]
    command = ["prepare", path, *options, "--out"]
    whole = warm.Command(*command, tmp_path / "whole")
    whole.communicate()
    assert whole.returncode == 0
    out, kills = tmp_path / "out", 0
    while kills < 6:
        process = warm.Command(*command, out)
        recorded = len(list(out.glob("train-*.bin")))
        # The kill comes while something is being written, at another place each time.
        while (
            process.poll() is None and len(list(out.glob("train-*.bin"))) < recorded + 1 + kills % 3
        ):
            time.sleep(0.002)
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        assert not (out / "manifest.json").exists()
    assert kills >= 3
    cold = [sys.executable, "-m", "minigpt", *map(str, command), str(out)]
    subprocess.run(cold, check=True, capture_output=True)
    assert content(out) == content(tmp_path / "whole")
