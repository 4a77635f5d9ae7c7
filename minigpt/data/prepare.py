"""A source in; a tokenizer and the tokens of its train and held-out part out, made once and then found again."""

from collections.abc import Callable
from pathlib import Path

from minigpt.config import DataConfig
from minigpt.data.encode import SHARD_TOKENS
from minigpt.data.executors import Tasks, run_tasks
from minigpt.data.preparation import begin
from minigpt.data.stream import open_stream
from minigpt.data.tokens import Tokens, open_prepared, open_ready

Say = Callable[[str], None]


def prepare(config: DataConfig, say: Say = lambda line: None) -> Tokens:
    """Return the tokens of `config.source`: as they are, from the cache, or made now.

    Args:
        config: source, tokenizer and split.
        say: called with a sentence about each step that takes time or that a person should know.

    Raises:
        UserError: nothing to read, not text, or a tokenizer that is not there or does not know the text.
    """
    if ready := open_ready(config):
        return ready
    if config.stream:
        return open_stream(config, say)
    with begin(config, say) as work:
        if not work.is_whole:
            work.encode()
            work.finish(say)
        return open_prepared(work.folder)


def prepare_folder(
    config: DataConfig,
    out: Path,
    say: Say = lambda line: None,
    *,
    workers: int | None = None,
    shard_tokens: int = SHARD_TOKENS,
    tasks: Tasks | None = None,
) -> Tokens | None:
    """Return the tokens of a source in a folder of their own, made now or by whoever was stopped before.

    Args:
        config, say: as `prepare`.
        out: the folder; what is whole in it is checked and kept.
        workers: threads; None: one for each core.
        shard_tokens: a shard ends with the first portion of text that brings it to so many tokens.
        tasks: have the parts done by an executor.

    Returns:
        None where the tasks are queued on a cluster.

    Raises:
        UserError: as `prepare`, or `out` holds something else.
    """
    with begin(config, say, out=out, workers=workers, shard_tokens=shard_tokens) as work:
        if not work.is_whole:
            if tasks is None:
                work.encode()
            elif not run_tasks(work.folder, work.workers, tasks):
                return None
            work.finish(say)
        return open_prepared(work.folder)
