import json

from minigpt.log import Log, describe_row, results

ROW = {
    "step": 5,
    "train_loss": 1.25,
    "val_loss": 1.5,
    "val_bits_per_byte": 2.0,
    "tokens_per_second": 1234,
    "seconds": 3.2,
}


def test_everything_said_is_also_written(tmp_path, capsys):
    log = Log(tmp_path, total_steps=10)
    with log:
        log.say("hello [bold]you[/bold]")
        log.row(ROW)
        log.step(5)
        log.samples(5, ["a\nb"])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "hello [bold]you[/bold]" in shown.err
    assert (
        "step  5/10  loss 1.2500  held-out 1.5000 (2.000 bits/byte)  1,234 tok/s  3 s" in shown.err
    )
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == ROW
    assert "hello" in (tmp_path / "train.log").read_text()
    assert (tmp_path / "samples.txt").read_text() == "--- step 5\na\nb\n\n"


def test_logs_are_cut_to_what_was_known(tmp_path):
    log = Log(tmp_path)
    log.row(ROW)
    sizes = log.sizes()
    log.row(ROW)
    log.samples(1, ["x"])
    log.cut(sizes)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 1
    assert (tmp_path / "samples.txt").read_text() == ""
    log.cut({})
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_log_that_is_shorter_than_it_was_is_said_and_goes_on_with_a_line_of_its_own(tmp_path):
    log = Log(tmp_path)
    log.row(ROW)
    log.row(ROW)
    sizes = log.sizes()
    (tmp_path / "metrics.jsonl").write_text(json.dumps(ROW) + '\n{"step')
    (tmp_path / "train.log").unlink()
    said = log.cut(sizes)
    assert said[0].startswith(f"metrics.jsonl has {len(json.dumps(ROW)) + 7} bytes instead of ")
    assert said[1].startswith("train.log has 0 bytes instead of ")
    log.row(ROW)
    rows = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row) for row in rows] == [ROW, ROW]


def test_rows_without_evaluation_are_thinned_out_in_a_plain_terminal(tmp_path, capsys):
    log = Log(tmp_path, total_steps=10)
    plain = {"step": 1, "train_loss": 1.0, "tokens_per_second": 1, "seconds": 0.0}
    for _ in range(5):
        log.row(plain)
    assert capsys.readouterr().err.count("step") == 1
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 5


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Log().say("x")
    Log(tmp_path / "not yet").say("x")
    assert list(tmp_path.iterdir()) == []


def test_a_row_reads_as_a_line():
    assert describe_row({"step": 0, "seconds": 0.0}, 200) == "step   0/200  0 s"


def test_texts_are_written_with_their_row(tmp_path):
    log = Log(tmp_path, total_steps=10)
    log.row(ROW, ["a", "b"])
    assert (tmp_path / "samples.txt").read_text() == "--- step 5\na\n\n--- step 5\nb\n\n"


def test_results_go_to_standard_output(capsys):
    results("text")
    assert capsys.readouterr().out == "text\n"
