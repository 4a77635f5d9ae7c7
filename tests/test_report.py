import doctest
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from minigpt import curves, drawing, report
from minigpt.config import DataConfig, ModelConfig, RunConfig, TrainConfig, to_toml
from minigpt.errors import UserError
from minigpt.pretrain import train
from minigpt.report import read_rows, read_samples, write_report
from minigpt.verdict import verdict

EMPTY = {"meta", "br", "hr", "img", "link", "input"}
SVG_NAME = "{http://www.w3.org/2000/svg}"


class Page(HTMLParser):
    """The elements of a page that is well nested, its text, and what it refers to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.texts, self.references, self.tags = [], [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "action", "srcset", "data")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def row(step: int, **more) -> dict:
    plain = {
        "step": step,
        "tokens": step * 64,
        "epoch": step / 100,
        "seconds": step * 0.5,
        "evaluation_seconds": step * 0.1,
        "sampling_seconds": step * 0.05,
        "saving_seconds": step * 0.01,
        "train_loss": 4.0 - step / 1000,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "update_ratio": [1e-3, 2e-3],
        "tokens_per_second": 1000 + step,
        "peak_memory_bytes": 10**9,
    }
    return plain | more


BASELINES = {
    name: {"loss": bits * 2, "bits_per_byte": bits, "bits_per_char": bits}
    for name, bits in (("uniform", 2.5), ("unigram", 2.25), ("bigram", 1.75))
}


@pytest.fixture
def run(tmp_path):
    """A run directory with a name that HTML would take for an element; its rows are up to each test."""
    folder = tmp_path / "a <b> & c"
    folder.mkdir()
    settings = RunConfig(
        model=ModelConfig(vocab_size=50, n_layer=2),
        data=DataConfig(source="<script>alert(1)</script>"),
        train=TrainConfig(steps=200),
    )
    (folder / "run.toml").write_text(to_toml(settings))
    return folder


def write_rows(folder, *rows, end="") -> None:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + end)


def made(folder, **options) -> tuple[str, Page]:
    text = write_report(folder, **options).read_text(encoding="utf-8")
    page = Page(text)
    for picture in pictures(text):
        ElementTree.fromstring(picture)
    assert page.references == []
    assert not {"link", "img", "iframe", "object", "embed"} & page.tags
    assert "http" not in text.replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "url(" not in text
    assert "@import" not in text
    return text, page


def pictures(text: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", text, re.DOTALL)


def titles(text: str) -> list[str]:
    found = [ElementTree.fromstring(picture) for picture in pictures(text)]
    return [title.text for tree in found for title in tree.iter(f"{SVG_NAME}title")]


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(report).failed == 0


def test_every_number_of_the_curves_stands_in_metrics(run):
    rows = [row(0, baselines=BASELINES, val_loss=4.5, val_bits_per_byte=2.25)]
    rows += [row(step) for step in range(10, 200, 10)]
    rows += [row(200, val_loss=3.0, val_bits_per_byte=1.5)]
    write_rows(run, *rows)
    text, page = made(run)
    said = titles(text)
    for one in rows:
        assert f"step {one['step']} · learning rate 0.001" in [
            t.replace("lr", "learning rate") for t in said
        ]
        assert f"step {one['step']} · tokens per second {one['tokens_per_second']:,.4g}" in said
        assert f"step {one['step']} · grad norm 0.5" in said
        assert f"step {one['step']} · block 0: 1.00e-03 · block 1: 2.00e-03" in said
        assert any(f"training {one['train_loss']:.4f} nats per token" in t for t in said)
    assert any("held-out 1.5000 bits per byte (3.0000 nats per token)" in title for title in said)
    for name in ("uniform 2.50", "unigram 2.25", "bigram 1.75", "held-out 1.50", "training 1.90"):
        assert name in page.texts
    assert "1.500" in page.texts  # the best
    assert "updates: 75.8 %" in said  # 100 of 132 seconds
    assert "1 min 40 s" in page.texts


def test_it_says_what_the_run_beats_and_what_not(run):
    write_rows(run, row(0, baselines=BASELINES, val_loss=4.5, val_bits_per_byte=2.25))
    said = "At its best it loses to the bigram by 0.50 bits per byte"
    assert any(text.endswith(said) for text in made(run)[1].texts)
    more = BASELINES | {"trigram": {"bits_per_byte": 1.25}}
    write_rows(run, row(0, baselines=more), row(9, val_loss=3.0, val_bits_per_byte=1.5))
    _, page = made(run)
    said = "At its best it beats the bigram by 0.25 bits per byte, but loses to the trigram by 0.25"
    assert any(text.endswith(said) for text in page.texts)
    assert "trigram 1.25" in page.texts


def test_text_of_others_is_shown_and_never_run(run):
    write_rows(run, row(0))
    (run / "samples.txt").write_bytes(
        b"--- step 0\n<b>&amp;</b>\x00\x1b[31m\xff \xe2\x80\xae turned\r\n\n</pre><script>alert(2)</script>\n\n"
    )
    (run / "data.json").write_text(json.dumps({"source": "<i>", "train": {"tokens": 12345}}))
    text, page = made(run)
    assert text.count("<script>") == 1  # our own
    assert "alert(1)" in page.text
    assert "</pre><script>alert(2)</script>" in page.text
    assert "<b>&amp;</b>␀␛[31m� � turned" in page.text
    assert "a <b> & c" in page.texts
    assert "12,345 tokens" in page.texts
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)


def test_a_run_under_way_is_drawn_to_where_it_is(run):
    write_rows(run, row(0), row(10), row(20), end='{"step": 30, "train_lo')
    text, page = made(run)
    assert "step 20 of 200" in page.text
    assert "held-out" not in "".join(titles(text))
    assert "nats per token, over steps; less is better" in page.texts
    ends = [ElementTree.fromstring(p).find(f"{SVG_NAME}polyline") for p in pictures(text)]
    last = float(ends[0].get("points").split()[-1].split(",")[0])
    assert last < 200  # a tenth of the way over 880 units


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"step": 0}],
        [{"step": 0, "val_loss": 4.0, "val_bits_per_byte": 2.0, "baselines": BASELINES}],
        [{"step": 0, "train_loss": None, "lr": True, "grad_norm": "high", "update_ratio": []}],
        [row(5, lr=0.0, grad_norm=0.0, update_ratio=[0.0], tokens_per_second=0)],
        [row(300)],
    ],
)
def test_whatever_is_missing_is_left_out(run, rows):
    write_rows(run, *rows)
    _, page = made(run)
    assert "Settings" in page.texts


def test_a_run_that_has_written_nothing_has_a_report(run):
    _, page = made(run)
    assert "nothing logged yet" in page.text


def test_thousands_of_rows_are_thinned(run):
    rows = [row(step, update_ratio=[1e-3] * 48) for step in range(6000)]
    rows[3000]["grad_norm"] = 99.0
    write_rows(run, *rows)
    text, _ = made(run)
    assert (run / "metrics.jsonl").stat().st_size > 3_000_000
    assert len(text) < 400_000
    assert len(titles(text)) <= drawing.MOST_STEPS * 6 + 4
    assert "block 47" in text
    assert text.count(">block ") == curves.MOST_BLOCKS


def test_a_damaged_line_is_named_and_a_cut_last_one_forgiven(run):
    path = run / "metrics.jsonl"
    write_rows(run, row(0), end='{"step": 1')
    assert [r["step"] for r in read_rows(path)] == [0]
    write_rows(run, row(0), end="\x00\x00\n")
    assert [r["step"] for r in read_rows(path)] == [0]
    path.write_text('{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"line 2 of .*metrics\.jsonl is no row of metrics"):
        write_report(run)


def test_samples_are_read_by_step(tmp_path):
    path = tmp_path / "samples.txt"
    assert read_samples(path) == []
    path.write_text("--- step 0\na\n\nb\n\n--- step 0\nsecond\n\n--- step 5\n--- step x\n\n")
    assert read_samples(path) == [(0, "a\n\nb"), (5, "")]


def test_differences_from_the_defaults_come_first(run):
    write_rows(run, row(0))
    text, page = made(run)
    first, _, rest = text.partition("<details>")
    assert "train.steps" in first
    assert "train.batch_size" not in first
    assert "train.batch_size" in rest
    assert page.texts.count("train.steps") == 1


def test_the_verdict_on_the_rows_is_shown(run):
    write_rows(run, row(0), row(10))
    wanted = verdict([row(0), row(10)]).sentence.removeprefix("verdict: ")
    _, page = made(run)
    assert any(text.lower() == wanted.lower() for text in page.texts)


def test_it_is_written_elsewhere_and_refused_where_it_cannot_be(run, tmp_path):
    assert write_report(run, tmp_path / "x.html").name == "x.html"
    assert not (run / "report.html").exists()
    with pytest.raises(UserError, match="the report cannot be written to"):
        write_report(run, tmp_path / "none" / "x.html")
    with pytest.raises(UserError, match="is no run directory"):
        write_report(tmp_path)


def test_a_run_leaves_its_report(small_config, tmp_path, capsys):
    folder = train(small_config, tmp_path / "run")
    assert f"how it went, to look at: {folder / 'report.html'}" in capsys.readouterr().err
    _, page = made(folder)
    assert "24 steps, finished" in page.text
    assert any(text.startswith("bigram ") for text in page.texts)
    assert "block 1" in page.texts
    assert "sampling" in page.texts


def test_what_the_guard_saw_is_told(run):
    seen = {"skipped": 2, "overflowed": 3, "spike_step": 7, "spike_z": 9.0}
    write_rows(run, row(0), row(10, **seen), row(20, spike_step=12, spike_z=7.0))
    _, page = made(run)
    assert "updates left out: not finite" in page.texts
    assert "updates left out: too large for fp16" in page.texts
    assert "step 7" in page.texts
    assert "highest of 2 spikes of the loss" in page.texts


def test_it_says_on_how_much_of_the_held_out_part_it_was_measured(run):
    write_rows(run, row(0, val_loss=4.0, val_bits_per_byte=2.0))
    for tokens, words in ((40_000, "(step 0)"), (1_000_000, "(step 0, 50 k of 1 M tokens)")):
        (run / "data.json").write_text(json.dumps({"val": {"tokens": tokens}}))
        assert f"bits per byte held out, at best {words}" in made(run)[1].texts


def test_what_both_parts_share_is_said_in_words(run):
    shared = {"exact": 1, "near": 0, "held_out_sequences_seen": 0.0325, "sequence_length": 32}
    (run / "data.json").write_text(
        json.dumps({"duplicates": shared | {"dropped": True}, "train": {"documents": 1}})
    )
    _, page = made(run)
    words = "1 documents word for word, 0 nearly, left out of training; 3.2% of the held-out sequences of 32 tokens"
    assert words in page.texts
    assert "1 document" in page.texts


def test_a_run_that_ran_out_of_patience_has_ended(run):
    settings = RunConfig(train=TrainConfig(steps=200, patience=1))
    (run / "run.toml").write_text(to_toml(settings))
    write_rows(run, *(row(n * 10, val_loss=4.0, val_bits_per_byte=2.0) for n in range(2)))
    assert "step 10 of 200, ended by train.patience" in made(run)[1].text
