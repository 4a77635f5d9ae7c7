"""The verb that talks: chat."""

import contextlib
import dataclasses
import io
import json
import signal
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from minigpt import config
from minigpt.cli.app import TEXT, app, say
from minigpt.cli.settings import DTYPE, NO_CHAT_OPTIONS, QUANTIZE, ChatOptions, given
from minigpt.config import SampleConfig, did_you_mean
from minigpt.errors import UserError, plain
from minigpt.files import expanded

if TYPE_CHECKING:
    from minigpt.inference.engine import Completion, Engine

NAMES = [item.name for item in dataclasses.fields(ChatOptions)]
WAKE_SECONDS = 0.1
HELP = """\
/reset             forget the conversation
/undo              take back what you said last, and its answer
/set [NAME VALUE]  show the settings, or change one: /set temperature 0.5, /set stop ["\\n"]
/save [FILE]       write the conversation to a new file
/adapter [NAME]    show the adapters of this model, or go on with another one; none: the model alone
/quit              leave; Ctrl-D does it, too
A line that ends in a backslash goes on in the next. A text that begins with / is sent with //.
Ctrl-C stops an answer."""


@app.command
def chat(
    run: str,
    /,
    *,
    system: Annotated[str | None, TEXT] = None,
    options: Annotated[Any, Parameter(name="*")] = NO_CHAT_OPTIONS,
    device: str = "auto",
    dtype: DTYPE = "auto",
    quantize: QUANTIZE = "none",
    compile: bool = True,
) -> None:
    """Talk with a model: what you type goes in, its answer comes out as it is made; /help lists what else there is.

    Example: minigpt chat runs/demo --temperature 0.5

    Parameters
    ----------
    run
        A run directory, one of its checkpoints, a Hugging Face directory, hf:OWNER/NAME, a file of weights, or an
        adapter. The adapters that lie beside it are chosen among by /adapter.
    system
        What the model is told before all else; for a model with a chat template.
    device
        auto, cpu, cuda or mps.
    compile
        Use a compiled step; the first time it is made while you talk, and kept.
    """
    from minigpt.inference.opening import Decoding, open_engine
    from minigpt.interop.export import chat_template
    from minigpt.interop.loading import load_both, located

    settings = config.build([("the command line", {"sample": given(options)})]).sample
    place = located(run)
    if system is not None:
        if chat_template(place) is None:
            raise UserError(
                f"{run} has no chat template, so that --system has no place; leave it out, or take a tuned model"
            )
        _check_text(system)
    decoding = Decoding(device=device, dtype=dtype, quantize=quantize, compile=compile)

    def opened(place: Any) -> "tuple[Engine, str | None]":
        engine = open_engine(*load_both(place), decoding, wait=False, say=say)
        template = chat_template(place)
        if template is None:
            say(f"{place} has no chat template: it does not answer, it goes on from what you type.")
        return engine, template

    _Chat(place, opened, settings, system).run()


class _Chat:
    """One conversation at the terminal, or through pipes.

    Attributes:
        settings: how the next answer is drawn.
    """

    def __init__(
        self,
        place: Any,
        opened: "Callable[[Any], tuple[Engine, str | None]]",
        settings: SampleConfig,
        system: str | None,
    ) -> None:
        """Begin a conversation with the model at `place`, of which `opened` returns an engine and its template."""
        self._opened, self._system, self.settings = opened, system, settings
        self._meet(place)
        self._interrupts = _Interrupts()
        self._commands: dict[str, Callable[[str], None]] = {
            "help": self._help, "reset": self._reset, "undo": self._undo, "set": self._set,
            "save": self._save, "adapter": self._adapter,
        }  # fmt: skip

    def _meet(self, place: Any) -> None:
        """Open a model and begin anew; where it cannot be opened, the one before stays."""
        from minigpt.inference.conversation import Conversation

        engine, template = self._opened(place)
        system = None if template is None else self._system
        self._conversation: Conversation = Conversation(engine.tokenizer, template, system)
        self._place, self._engine, self._has_template = place, engine, template is not None
        self._context = engine.slots.config.block_size
        self._has_dropped = self._has_slid = False

    def run(self) -> None:
        """Take lines until there are no more, or /quit."""
        lines = _Lines()
        interrupted = False
        if lines.is_typed:
            say("/help lists what you can do beside talking; Ctrl-D leaves.")
        with self._interrupts.handled():
            while True:
                try:
                    with self._interrupts.raised():
                        line = lines.read()
                except KeyboardInterrupt:
                    if interrupted:
                        raise
                    interrupted = True
                    say("\nCtrl-C once more, Ctrl-D or /quit leaves.")
                    continue
                interrupted = False
                if line is None or line.split() == ["/quit"]:
                    return
                self._take(line)

    def _take(self, line: str) -> None:
        """Carry out a command, or have the model answer; what cannot be done is said, and nothing is lost."""
        is_command = line.startswith("/") and not line.startswith("//")
        if not line.strip():
            return
        try:
            if is_command:
                self._obey(line.removeprefix("/"))
                return
            answer = self._ask(line.removeprefix("/"))
        except UserError as error:
            say(str(error))
            return
        self._show(answer)

    def _obey(self, command: str) -> None:
        name, rest = [*command.split(None, 1), "", ""][:2]
        if name not in self._commands:
            near = did_you_mean(f"/{name}", [f"/{known}" for known in (*self._commands, "quit")])
            raise UserError(
                f"there is no command {f'/{name}'!r}{near}; /help lists them, and // sends a text that begins with /"
            )
        self._commands[name](rest.strip())

    def _ask(self, text: str) -> "Completion":
        """Say something to the model, and return the answer that it is to write."""
        _check_text(text)
        conversation, seed = self._conversation, self.settings.seed + self._conversation.turns
        conversation.add("user", text)
        kept = min(self.settings.max_tokens, self._context // 2)  # for the answer
        try:
            prompt = conversation.prompt_ids(self._context - kept)
        except UserError:
            conversation.undo()
            raise
        if prompt.dropped and not self._has_dropped:
            turns = "turn is" if prompt.dropped == 1 else f"{prompt.dropped} turns are"
            say(f"the first {turns} out of sight: the context holds {self._context} tokens")
        self._has_dropped = prompt.dropped > 0
        if prompt.cut:
            say(
                f"that is too long: the context holds {self._context} tokens, {kept} of them for the answer; the model "
                "sees the end of it"
            )
        return self._engine.submit(prompt.ids, self.settings, seed=seed, ends=conversation.ends)

    def _show(self, answer: "Completion") -> None:
        """Write an answer as it is made, until it ends or Ctrl-C ends it; what was written stays in the history."""
        shown = 0
        for piece in self._engine.run(answer):
            _write(piece)
            shown += len(piece)
            if self._interrupts.is_noted:
                self._engine.cancel(answer)
        _write(answer.text[shown:] + "\n")
        self._conversation.add("assistant", answer.text)
        if answer.slid and not self._has_slid:
            self._has_slid = True
            say(
                f"the context of {self._context} tokens was full: the answer went on from its younger half"
            )

    def _help(self, rest: str) -> None:
        say(HELP)

    def _reset(self, rest: str) -> None:
        self._conversation.reset()
        say("the conversation is empty")

    def _undo(self, rest: str) -> None:
        text = self._conversation.undo()
        if text is None:
            raise UserError("there is nothing to take back")
        say(f"taken back: {plain(text, 60)}")

    def _set(self, rest: str) -> None:
        name, _, value = rest.partition(" ")
        name = name.lstrip("-").replace("-", "_")
        if name and name not in NAMES:
            raise UserError(
                f"there is no setting {name!r}{did_you_mean(name, NAMES)}; /set lists them"
            )
        if value.strip():
            self.settings = _changed(self.settings, name, value.strip())
        for shown in [name] if name else NAMES:
            say(f"{shown} {json.dumps(getattr(self.settings, shown), ensure_ascii=False)}")

    def _save(self, rest: str) -> None:
        conversation = self._conversation
        if not conversation.turns:
            raise UserError("there is nothing to save yet")
        if self._has_template:
            path = expanded(rest or "chat.jsonl")
            text = json.dumps({"messages": conversation.messages}, ensure_ascii=False)
        else:
            path, text = expanded(rest or "chat.txt"), conversation.text()
        try:
            with path.open("xb") as file:
                file.write(f"{text}\n".encode())
        except FileExistsError:
            raise UserError(
                f"{path} is there already, and stays as it is; name another: /save FILE"
            ) from None
        except (OSError, ValueError) as error:  # ValueError: no name of a file
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{plain(path)} cannot be written ({why}); /save FILE") from None
        say(f"saved in {path}")

    def _adapter(self, rest: str) -> None:
        from minigpt.interop.loading import adapters_beside, base_of, is_adapter

        place, name = self._place, rest.strip()
        if not isinstance(place, Path) or not place.is_dir():
            raise UserError("a file of weights has no adapters beside it; take a model directory")
        known: dict[str, Path] = adapters_beside(place)
        if not name:
            current = place.resolve() if is_adapter(place) else None
            for one, folder in known.items():
                say(f"{'*' if folder == current else ' '} {one}")
            say(f"{'*' if current is None else ' '} none")
            return
        if name not in (*known, "none"):
            near = did_you_mean(name, [*known, "none"])
            raise UserError(
                f"there is no adapter {name!r} of this model{near}; /adapter lists them"
            )
        said = [m for m in self._conversation.messages if m["role"] != "system"]
        alone = base_of(place) if is_adapter(place) else place
        self._meet(alone if name == "none" else known[name])
        for message in said:
            self._conversation.add(**message)
        say(f"going on with {self._place}" + (", and with what was said" if said else ""))


def _changed(settings: SampleConfig, name: str, value: str) -> SampleConfig:
    """Return the settings with another value, as it was typed: stop takes a text, or a list of them in JSON."""
    given: Any = value
    if name == "stop" and value.startswith("["):
        with contextlib.suppress(ValueError):
            given = json.loads(value)
    changed = dataclasses.replace(settings, **config.convert_all("sample", {name: given}))
    config.check(changed, "sample")
    return changed


def _check_text(text: str) -> None:
    if any("\udc80" <= character <= "\udcff" for character in text):
        raise UserError("that text is not UTF-8; set the terminal to UTF-8")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


class _Lines:
    """What a person types, or a program sends.

    Attributes:
        is_typed: whether it comes from a terminal.
    """

    def __init__(self) -> None:
        self.is_typed = sys.stdin is not None and sys.stdin.isatty()
        self._is_edited = self.is_typed and sys.stdout.isatty()
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(
                errors="surrogateescape"
            )  # a broken line is refused, and not the rest
        if self._is_edited:
            with contextlib.suppress(ImportError):  # Windows has its own
                import readline  # what `input` edits with from now on

                readline.parse_and_bind("set enable-bracketed-paste on")  # a pasted text is one

    def read(self) -> str | None:
        """Return the next text, of one or several lines; None where there is no more."""
        lines: list[str] = []
        while not lines or lines[-1].endswith("\\"):
            line = self._line(". " if lines else "> ")
            if line is None:
                break
            lines.append(line)
        if not lines:
            return None
        return "\n".join([line.removesuffix("\\") for line in lines[:-1]] + lines[-1:])

    def _line(self, prompt: str) -> str | None:
        if sys.stdin is None:
            return None
        try:
            if self._is_edited:
                return input(prompt)
            if self.is_typed:
                sys.stderr.write(prompt)
                sys.stderr.flush()
            line = sys.stdin.readline()
            if line:
                return line.removesuffix("\n")
        except EOFError:
            pass
        if self.is_typed:
            say("")
        return None


class _Interrupts:
    """What Ctrl-C does: it is noted, and raised only where that is asked for, so that nothing is left half done.

    Attributes:
        is_noted: whether it was pressed since the last block in which it is raised began.
    """

    def __init__(self) -> None:
        self._is_raised = self.is_noted = False

    @contextlib.contextmanager
    def handled(self) -> Generator[None]:
        """Let the rest of this class decide, in the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._take)
        try:
            with _waking():
                yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextlib.contextmanager
    def raised(self) -> Generator[None]:
        """Raise KeyboardInterrupt in the block."""
        self._is_raised, self.is_noted = True, False
        try:
            yield
        finally:
            self._is_raised = False

    def _take(self, number: int, frame: object) -> None:
        self.is_noted = True
        if self._is_raised:
            self._is_raised = False
            raise KeyboardInterrupt


@contextlib.contextmanager
def _waking() -> Generator[None]:
    """Wake the wait for a key again and again: by itself it never sees a Ctrl-C of the moment before it began."""
    if not hasattr(signal, "setitimer"):  # Windows
        yield
        return
    handler = signal.signal(signal.SIGALRM, lambda number, frame: None)
    timer = signal.setitimer(signal.ITIMER_REAL, WAKE_SECONDS, WAKE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)
