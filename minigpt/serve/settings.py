"""How a server listens, whom it lets in, and how much it takes: every limit, once."""

import ipaddress
from dataclasses import dataclass
from typing import Literal, get_args

from minigpt.errors import UserError, plain

Log = Literal["text", "json", "none"]
SHORTEST_KEY = 8  # characters
# By option: the field, and what it may be.
LIMITS = {
    "slots": ("slots", 1, 1024),
    "queue": ("queue", 0, 10**6),
    "max-tokens": ("most_tokens", 1, 10**9),
    "grace": ("grace_seconds", 0, 3600),
}


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """What a server is told when it starts.

    Attributes:
        host: the address that it listens on.
        keys: one of them is asked for in `Authorization: Bearer …`; none: nobody is asked.
        hosts: names beside its own by which it may be called; on a loopback address no others are answered.
        origins: web pages of other places that may call it from a browser; `*`: all.
        slots: texts that a model writes at a time.
        queue: texts that wait for a slot; beyond that a request is turned away.
        most_choices: texts that one request may ask for.
        most_tokens: new tokens of one text, where it may go on beyond the context.
        most_body_bytes: of a request.
        most_upload_bytes: of a request to a path below `/api/upload`.
        connections: that are open at a time.
        header_seconds: in which the head of a request has to come.
        body_seconds: in which the rest of it has to come; of an upload, in which any of it has to.
        send_seconds: in which a reader has to take something of what waits for it.
        idle_seconds: that a connection stays open without a request.
        grace_seconds: that what runs has to end once the server is told to stop.
        log: what is written to standard error for each request.
    """

    host: str = "127.0.0.1"
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    slots: int = 16
    queue: int = 128
    most_choices: int = 64
    most_tokens: int = 4096
    most_body_bytes: int = 2**20
    most_upload_bytes: int = 2**32
    connections: int = 512
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    send_seconds: float = 60.0
    idle_seconds: float = 15.0
    grace_seconds: float = 30.0
    log: Log = "text"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Return whether an address is one that only this machine can reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def keys_in(text: str, where: object) -> tuple[str, ...]:
    """Return the keys in a text, one a line.

    Raises:
        UserError: there is none, or one that nobody can send or anybody can guess.
    """
    keys = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not keys:
        raise UserError(f"{where} is empty; write a key into it: openssl rand -hex 32")
    for number, key in enumerate(keys, 1):
        if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(
                f"key {number} in {where} cannot be used; wanted at least {SHORTEST_KEY} letters, digits and signs "
                "without a space, one key a line: openssl rand -hex 32"
            )
    return keys


def check_limits(settings: ServeSettings) -> None:
    """Refuse limits that no server could keep.

    Raises:
        UserError: it names the option, what it is, and what it may be.
    """
    if settings.log not in get_args(Log):
        raise UserError(f"--log is {plain(settings.log)}; wanted text, json or none")
    for option, (name, least, most) in LIMITS.items():
        value = getattr(settings, name)
        if not least <= value <= most:
            raise UserError(f"--{option} is {value}; wanted at least {least} and at most {most}")


def check_open(settings: ServeSettings, insecure: bool) -> None:
    """Refuse to listen where others can reach it without asking them for a key.

    Raises:
        UserError: it says what to do.
    """
    if not (settings.is_loopback or settings.keys or insecure):
        raise UserError(
            f"--host {settings.host} can be reached from other machines, and nobody would be asked for a key; give "
            "--api-key-file FILE, or --insecure if that is meant"
        )
