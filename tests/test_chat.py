"""The verb chat: through pipes, and at a real terminal."""

import importlib
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest
import torch

from minigpt import cli
from minigpt.cli.chatting import NAMES
from minigpt.inference.text import generate
from minigpt.interop.loading import load
from minigpt.model.transformer import GPT
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .conftest import tiny
from .test_conversation import CHATML

TOKENIZER = bpe_tokenizer([])
D = TOKENIZER.encode("d")[0]


def endless(**switches) -> GPT:
    """Return a model that says d for ever."""
    made = GPT(tiny(norm="layernorm", bias=True, tie_embeddings=False, **switches))
    with torch.no_grad():
        made.head.weight.zero_()[D] = 1.0
        made.norm.weight.zero_()
        made.norm.bias.fill_(1.0)
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Small models: plain, tuned (both random), endless, endless and tuned, char."""
    folder = tmp_path_factory.mktemp("chat")
    torch.manual_seed(0)
    drawn = GPT(tiny(vocab_size=259, block_size=256))
    for parameter in drawn.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for name, model in {
        "plain": drawn, "tuned": drawn, "endless": endless(vocab_size=259, block_size=96),
        "endless-tuned": endless(vocab_size=259, block_size=96),
    }.items():  # fmt: skip
        model.save_pretrained(folder / name, TOKENIZER)
        if "tuned" in name:
            (folder / name / "chat_template.jinja").write_text(CHATML)
    characters = char_tokenizer([chr(97 + i) for i in range(26)], ends=False)
    GPT(tiny(vocab_size=26)).save_pretrained(folder / "char", characters)
    return folder


@pytest.fixture
def chat(runs, capsys, monkeypatch, tmp_path):
    """Return what sends lines to a model of `runs` and returns its answers and what the program said."""
    monkeypatch.chdir(tmp_path)

    def talk(name: str, lines: str | bytes, *options: str, status: int = 0) -> tuple[str, str]:
        content = lines if isinstance(lines, bytes) else lines.encode()
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), "utf-8"))
        assert cli.run(time.monotonic(), ["chat", str(runs / name), *EAGER, *options]) == status
        shown = capsys.readouterr()
        return shown.out, shown.err

    return talk


SHORT = ("--max-tokens", "9")
EAGER = ("--no-compile", "--dtype", "fp32")


def test_a_model_without_a_template_goes_on_from_the_text_and_says_so(chat, runs):
    out, err = chat("plain", "Once\nthen\n", *SHORT)
    assert (
        err
        == f"{runs / 'plain'} has no chat template: it does not answer, it goes on from what you type.\n"
    )
    model, tokenizer = load(runs / "plain")
    first = generate(model, tokenizer, "Once", max_tokens=9)
    second = generate(model, tokenizer, f"Once{first}\nthen", max_tokens=9, seed=1)
    assert out == f"{first}\n{second}\n"


def test_the_same_conversation_gives_the_same_answers_and_so_does_a_line_taken_back(chat):
    first, _ = chat("tuned", "hi\n", *SHORT, "--seed", "5")
    both, _ = chat("tuned", "hi\nthere\n", *SHORT, "--seed", "5")
    assert both.startswith(first)
    assert not chat("tuned", "hi\n", *SHORT, "--seed", "6")[0].startswith(first)
    lines = "hi\nno\n/undo\nthere\n/undo\n/undo\n/undo\nhi\n"
    out, err = chat("tuned", lines, *SHORT, "--seed", "5")
    assert out.startswith(first)
    assert out.endswith(both.removeprefix(first) + first)
    assert err.splitlines() == [
        "taken back: no", "taken back: there", "taken back: hi", "there is nothing to take back",
    ]  # fmt: skip


def test_what_was_said_before_is_seen_until_it_is_reset(chat):
    greedy = (*SHORT, "--greedy")
    alone, _ = chat("tuned", "hello\n", *greedy)
    after, _ = chat("tuned", "hi\nhello\n", *greedy)
    reset, err = chat("tuned", "hi\n/reset\nhello\n", *greedy)
    assert not after.endswith(alone)
    assert reset.endswith(alone)
    assert err == "the conversation is empty\n"
    system, _ = chat("tuned", "hello\n", *greedy, "--system", "Be brief.")
    assert system != alone


def saved(chat, name: str, lines: str, *options: str) -> list[dict[str, str]]:
    """Return the messages of a conversation."""
    chat(name, f"{lines}/save here.jsonl\n", *options)
    with open("here.jsonl", encoding="utf-8") as file:
        (line,) = file.read().splitlines()
    os.remove("here.jsonl")
    return json.loads(line)["messages"]


def test_a_conversation_is_saved_and_no_file_is_ever_overwritten(chat):
    assert saved(chat, "endless-tuned", "hi\n", "--max-tokens=3", "--system", "ß") == [
        {"role": "system", "content": "ß"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ddd"},
    ]
    _, err = chat("endless", "/save\nhi\n/save\n/save\n/save other.txt\n", "--max-tokens=3")
    assert err.splitlines()[1:] == [
        "there is nothing to save yet", "saved in chat.txt",
        "chat.txt is there already, and stays as it is; name another: /save FILE", "saved in other.txt",
    ]  # fmt: skip
    with open("chat.txt") as one, open("other.txt") as other:
        assert one.read() == other.read() == "hiddd\n"
    _, err = chat("endless", "hi\n/save none/a.txt\n/save .\n/save a\0b\n", "--max-tokens=3")
    assert "none/a.txt cannot be written (No such file or directory)" in err
    assert ". is there already" in err


def test_lines_that_end_in_a_backslash_go_on_and_two_slashes_are_one(chat):
    lines = "a\\\n\\\nb\n\n   \n//reset \nc\\\n"
    contents = [m["content"] for m in saved(chat, "endless-tuned", f"{lines}\n", "--max-tokens=1")]
    assert contents[::2] == ["a\n\nb", "/reset ", "c\n"]
    out, _ = chat("endless", "a\\", "--max-tokens=1")
    assert out == "d\n"


def test_settings_are_changed_and_shown_while_the_conversation_goes_on(chat):
    lines = "/set max_tokens 2\na\n/set --max-tokens 4\nb\n/set stop dd\nc\n/set stop []\nd\n/set\n"
    out, err = chat("endless", lines)
    assert out == "dd\ndddd\n\ndddd\n"
    said = err.splitlines()[1:]
    assert said[:4] == ["max_tokens 2", "max_tokens 4", 'stop ["dd"]', "stop []"]
    assert [line.split()[0] for line in said[4:]] == NAMES


def test_help_names_every_command(chat):
    out, err = chat("endless", "/help\n/quit\na\n")
    assert out == ""
    for command in ("/reset", "/undo", "/set", "/save", "/quit"):
        assert f"\n{command} " in err


def test_every_command_line_setting_but_prompt_and_num_samples_is_there():
    assert {"temperature", "on_full", "stop", "seed"} <= set(NAMES)
    assert not {"prompt", "num_samples"} & set(NAMES)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/set temperature warm", "sample.temperature is 'warm'; wanted a number"),
        ("/set top-p 2", "sample.top_p is 2.0; wanted at least 0.0 and at most 1.0"),
        ("/set temprature 1", "there is no setting 'temprature' (did you mean 'temperature'?); /set lists them"),
        ("/set prompt a", "there is no setting 'prompt'; /set lists them"),
        ("/set stop [1]", "sample.stop is [1]; wanted a list of texts"),
        ('/set stop [""]', "sample.stop is empty text; wanted what the text is to end before"),
        ("/set greedy maybe", "sample.greedy is 'maybe'; wanted true or false"),
        ("/rest", "there is no command '/rest' (did you mean '/reset'?); /help lists them, and // sends a text that "
         "begins with /"),
        ("/", "there is no command '/'; /help lists them, and // sends a text that begins with /"),
        ("a\x00€", "the character tokenizer does not know"),
        ("a\udcff", "that text is not UTF-8; set the terminal to UTF-8"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_sentence_and_nothing_is_lost(line, said, chat):
    content = f"abc\n{line}\n/undo\n/undo\n".encode(errors="surrogateescape")
    _, err = chat("char", content, "--max-tokens=2")
    found = err.splitlines()[1:]
    assert said in found[0]
    assert found[1:] == ["taken back: abc", "there is nothing to take back"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--temperature", "warm"], "sample.temperature is 'warm'; wanted a number"),
        (["--prompt", "a"], "--prompt"),
        (["--system", "a"], "has no chat template, so that --system has no place"),
    ],
)
def test_a_command_line_that_cannot_work_is_refused(options, said, chat):
    _, err = chat("plain", "hi\n", *options, status=2)
    assert said in err


def test_turns_that_are_out_of_sight_are_told_once(chat):
    turn = "a" * 20
    _, err = chat("endless", f"{turn}\n" * 6 + f"/reset\n{turn}\n{turn * 9}\n", "--max-tokens=9")
    assert err.splitlines()[1:] == [
        "the first turn is out of sight: the context holds 96 tokens",
        "the conversation is empty",
        "the first turn is out of sight: the context holds 96 tokens",
        "that is too long: the context holds 96 tokens, 9 of them for the answer; the model sees the end of it",
    ]
    _, err = chat("endless", f"{turn}\n{turn}\n{turn}\n{turn * 4}\n", "--max-tokens=9")
    assert "the first 3 turns are out of sight: the context holds 96 tokens\n" in err


def test_an_answer_that_leaves_the_context_goes_on_or_ends_as_it_was_set(chat):
    out, err = chat("endless", "hi\n", "--max-tokens=200")
    assert out == "d" * 200 + "\n"
    assert "the context of 96 tokens was full: the answer went on from its younger half" in err
    out, err = chat("endless", "hi\n", "--max-tokens=200", "--on-full=stop")
    assert len(out) < 100
    assert "younger half" not in err


class Pressed(io.StringIO):
    """Standard output that has Ctrl-C pressed at some of its writes."""

    def __init__(self, *at: int) -> None:
        super().__init__()
        self.at, self.writes = at, 0

    def write(self, text: str) -> int:
        self.writes += 1
        if self.writes in self.at:
            signal.raise_signal(signal.SIGINT)
        return super().write(text)


def test_ctrl_c_ends_the_answer_and_what_was_written_stays(chat, monkeypatch):
    monkeypatch.setattr("sys.stdout", pressed := Pressed(4, 5))
    before = signal.getsignal(signal.SIGINT)
    lines = "hi\n/save a.jsonl\n/set max_tokens 2\nyou\n"
    chat("endless-tuned", lines, "--max-tokens=1000000000")
    assert pressed.getvalue() == "dddd\ndd\n"
    with open("a.jsonl") as file:
        assert json.load(file)["messages"][1] == {"role": "assistant", "content": "dddd"}
    assert signal.getsignal(signal.SIGINT) is before


class Keys:
    """Standard input that has Ctrl-C pressed for some of its lines."""

    def __init__(self, *lines: str | None) -> None:
        self.lines = list(lines)

    def isatty(self) -> bool:
        return False

    def readline(self) -> str:
        line = self.lines.pop(0) if self.lines else ""
        if line is None:
            signal.raise_signal(signal.SIGINT)
        return line or ""


def test_ctrl_c_between_answers_says_how_to_leave_and_twice_in_a_row_leaves(
    runs, monkeypatch, capsys
):
    leave = "\nCtrl-C once more, Ctrl-D or /quit leaves.\n"
    for lines, status, count in (
        ([None, "/help\n", None, "/quit\n", "a\n"], 0, 2), ([None, None, "a\n"], 130, 1), (["a\\\n", None], 0, 1),
    ):  # fmt: skip
        monkeypatch.setattr("sys.stdin", Keys(*lines))
        assert cli.run(time.monotonic(), ["chat", str(runs / "endless"), *EAGER]) == status
        shown = capsys.readouterr()
        assert shown.err.count(leave) == count
        assert shown.out == ""


def test_damaged_weights_end_it(runs, chat, tmp_path):
    model = endless(vocab_size=259)
    torch.nn.init.constant_(model.head.weight, float("nan"))
    model.save_pretrained(runs / "damaged", TOKENIZER)
    assert "not finite" in chat("damaged", "hi\n", status=2)[1]


# ------------------------------------------------------------------------------------------- in a process of its own


@pytest.mark.slow
def test_through_pipes_standard_output_holds_the_answers_alone(runs):
    command = [
        sys.executable,
        "-m",
        "minigpt",
        "chat",
        str(runs / "endless-tuned"),
        "--max-tokens=3",
        *EAGER,
    ]
    lines = "hi\n/reset\nhello\n"
    done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "ddd\nddd\n")
    assert done.stderr == "the conversation is empty\n"


@pytest.mark.slow
def test_through_pipes_a_signal_ends_the_answer_and_not_the_program(runs):
    command = [sys.executable, "-m", "minigpt", "chat", str(runs / "endless"), *EAGER]
    command.append("--max-tokens=1000000000")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdin.write("hi\n")
        process.stdin.flush()
        assert process.stdout.read(5) == "ddddd"
        process.send_signal(signal.SIGINT)
        assert set(process.stdout.readline()) <= {"d", "\n"}
        process.stdin.write("/set max_tokens 2\nyou\n")
        process.stdin.close()
        assert process.stdout.read() == "dd\n"
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 0


class Terminal:
    """The program at a terminal of its own, where keys are pressed and what is shown is read."""

    PROGRAM = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from minigpt.__main__ import main; main()"

    def __init__(self, *arguments: str) -> None:
        self.keys, its_end = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, *arguments], stdin=its_end, stdout=its_end, stderr=its_end,
            start_new_session=True, env=os.environ | {"TERM": "xterm", "INPUTRC": os.devnull},
        )  # fmt: skip
        os.close(its_end)

    def press(self, keys: str) -> None:
        os.write(self.keys, keys.encode())

    def until(self, text: str) -> str:
        """Return what is shown up to and with `text`, after what was returned before."""
        while text not in self.shown:
            assert select.select([self.keys], [], [], 120)[0], f"no {text!r} in {self.shown!r}"
            self.shown += os.read(self.keys, 4096).decode(errors="replace")
        found, _, self.shown = self.shown.partition(text)
        return found + text

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.keys)


@pytest.mark.slow
def test_at_a_terminal_ctrl_c_ends_the_answer_and_the_arrow_brings_a_line_back(runs):
    with Terminal(
        "chat", *EAGER, str(runs / "endless-tuned"), "--max-tokens=1000000000"
    ) as terminal:
        terminal.until("> ")
        terminal.press("hello\r")
        terminal.until("hello\r\n")
        terminal.until("ddd")
        terminal.press("\x03")
        assert "Traceback" not in terminal.until("> ")
        terminal.press("/set max_tokens 3\r")
        terminal.until("max_tokens 3\r\n")
        terminal.until("max_tokens 3\r\n")
        terminal.until("> ")
        terminal.press("\x1b[A\x1b[A\r")  # twice up: hello
        assert "hello" in terminal.until("ddd\r\n")
        terminal.until("> ")
        terminal.press("/undo\r")
        terminal.until("taken back: hello\r\n")
        terminal.until("> ")
        terminal.press("a\\\r")
        terminal.until(". ")
        terminal.press("b\r")
        terminal.until("ddd\r\n")
        terminal.until("> ")
        terminal.press("\x04")
        assert terminal.process.wait(60) == 0


@pytest.mark.slow
def test_at_a_terminal_a_pasted_text_is_one(runs):
    if "GNU" not in (importlib.import_module("readline").__doc__ or ""):
        pytest.skip("needs GNU readline")
    with Terminal("chat", *EAGER, str(runs / "endless-tuned"), "--max-tokens=3") as terminal:
        terminal.until("> ")
        terminal.press("\x1b[200~one\rtwo\x1b[201~\r")
        terminal.until("ddd\r\n")
        terminal.until("> ")
        terminal.press("/undo\r")
        terminal.until("taken back: one\\ntwo\r\n")


@pytest.mark.slow
def test_at_a_terminal_ctrl_c_twice_at_the_prompt_leaves(runs):
    with Terminal("chat", *EAGER, str(runs / "endless-tuned")) as terminal:
        terminal.until("> ")
        terminal.press("half a line\x03")
        terminal.until("leaves.\r\n")
        terminal.until("> ")
        terminal.press("\x03")
        assert terminal.process.wait(60) == 130
