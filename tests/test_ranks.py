"""What the processes of a run agree on, how they part, and how each notices that another is gone."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist

from minigpt import ranks as module
from minigpt.errors import LostError, PeerError, UserError
from minigpt.ranks import ALONE, own_part

from .several import end, start, together

# --------------------------------------------------------------------------------------------------------------- alone


def test_one_process_decides_for_itself():
    assert ALONE.is_first
    assert ALONE.agreed("this") == "this"
    assert ALONE.largest(3) == ALONE.last_largest(3) == ALONE.sum_numbers(np.array([3]))[0] == 3
    assert ALONE.sum(torch.tensor(3)) == ALONE.sum_shards(torch.tensor(3)) == 3
    assert ALONE.together(lambda: 4) == ALONE.first(lambda: 4) == ALONE.host_first(lambda: 4) == 4
    ALONE.leave()
    assert own_part(tensor := torch.ones(2)) is tensor


def test_one_process_raises_what_it_raises():
    with pytest.raises(ZeroDivisionError), ALONE.noticing_loss(), ALONE.noting_signals():
        ALONE.together(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="gloo"), ALONE.noticing_loss():
        raise RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer")


def test_one_process_leaves_signals_to_who_heard_them_before():
    before = signal.getsignal(signal.SIGTERM)
    with ALONE.noting_signals():
        assert signal.getsignal(signal.SIGTERM) is before


# -------------------------------------------------------------------------------------------------------------- several


def refuse(sentence="no"):
    raise UserError(sentence)


def raised(work):
    """Return what is raised: its class, and its status or its sentence."""
    with pytest.raises(BaseException) as found:  # noqa: PT011 - what it is is what is returned
        work()
    return type(found.value), getattr(found.value, "status", str(found.value))


def decide(ranks, folder):
    rank, size = ranks.rank, ranks.size
    assert ranks.agreed({"from": rank}) == {"from": 0}
    assert ranks.sum(torch.tensor(rank)) == sum(range(size))
    both = ranks.sum_numbers(np.array([rank, 0.5]))
    assert both.tolist() == [sum(range(size)), size / 2]
    # The answer to a question comes with the next one.
    assert [ranks.last_largest(rank * n) for n in range(4)] == [0, 0, size - 1, 2 * (size - 1)]
    assert ranks.largest(10 - rank) == 10
    assert ranks.last_largest(rank) == 0  # what was asked before is forgotten
    # Only when all have succeeded, and in the place of whoever has not.
    assert ranks.together(lambda: rank) == rank
    assert ranks.first(lambda: f"by {rank}") == "by 0"
    last = size - 1
    fails = raised(lambda: ranks.together(lambda: refuse() if rank == last else None))
    assert fails == ((UserError, "no") if rank == last else (PeerError, 2))
    fails = raised(lambda: ranks.together(lambda: 1 / 0 if rank == 0 else None))
    assert fails == ((ZeroDivisionError, "division by zero") if rank == 0 else (PeerError, 1))
    # Of those who have the same to say, one says it.
    fails = raised(lambda: ranks.together(lambda: refuse() if rank else None))
    assert fails == ((UserError, "no") if rank == 1 else (PeerError, 2))
    assert raised(lambda: ranks.first(refuse)) == (
        (UserError, "no") if rank == 0 else (PeerError, 2)
    )
    assert raised(lambda: ranks.first(lambda: 1 / 0))[1] == ("division by zero" if rank == 0 else 1)


def take_turns(ranks, folder):
    """As on two hosts of two processes."""
    ranks.local_rank, ranks.local_size = ranks.rank % 2, 2
    host = folder / f"host-{ranks.rank // 2}"

    def work():
        if ranks.local_rank == 0:
            time.sleep(0.1)
            host.touch()
        return host.is_file()

    assert ranks.host_first(work)


def hear(ranks, folder):
    """A signal to one process ends work that is done together, on all of them."""
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = signal.getsignal(number)
        with ranks.noting_signals():
            if ranks.rank == 1:  # noted, and told when they next decide something
                signal.raise_signal(number)
            assert ranks.largest(7) == 7
            kind, _ = raised(lambda: ranks.together(lambda: None))
            assert kind is (
                PeerError if ranks.rank != 1 else {143: SystemExit, 130: KeyboardInterrupt}[status]
            )
            assert ranks.take_noted() == (number if ranks.rank == 1 else 0)
            assert ranks.take_noted() == 0

            def interrupted(number=number):
                signal.raise_signal(number)
                time.sleep(60)

            found = raised(lambda work=interrupted: ranks.first(work))
            assert found[1] == status if ranks.rank else found[0] in (SystemExit, KeyboardInterrupt)
            ranks.take_noted()
        assert signal.getsignal(number) is before


def compute_for_ever(ranks):
    with ranks.noticing_loss():
        while True:
            ranks.sum(torch.ones(1))


def notice(ranks, folder):
    """One is gone without a word: the others notice while they compute with it, and while they do something else."""
    module.NOTICE_SECONDS = 0.3
    if ranks.rank == ranks.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if ranks.rank == 0:
        ranks._leaving.set()  # this process goes on
        with pytest.raises(LostError) as found:
            compute_for_ever(ranks)
        sentence = str(found.value)
        assert sentence.startswith("lost another of the 3 processes, which has ended or cannot be")
        assert ".cc" not in sentence
        (folder / "said").touch()
        os._exit(7)
    with ranks.noticing_loss():
        threading.Event().wait(60)  # the neighbour of who is gone ends in the middle of this


@pytest.mark.slow
@pytest.mark.parametrize(("size", "work"), [(3, decide), (4, take_turns), (2, hear)])
def test_several_processes(size, work, tmp_path):
    together(size, work, tmp_path)


@pytest.mark.slow
def test_who_is_left_notices_whatever_it_is_doing(tmp_path):
    processes = start(3, notice, tmp_path)
    for process in processes:
        process.join(60)
    codes = [process.exitcode for process in processes]
    end(processes)
    assert codes == [7, 1, -signal.SIGKILL]
    assert (tmp_path / "said").is_file()


def part(ranks, folder):
    """The last word of one who is slow is waited for."""
    with ranks.noticing_loss():
        if ranks.rank == 1:
            time.sleep(0.2)
            (folder / "slow").touch()
        ranks.leave()
        assert ranks.rank == 1 or (folder / "slow").is_file()
    assert not dist.is_initialized()
    ranks.leave = lambda: None  # it is done


@pytest.mark.slow
def test_all_part_in_peace(tmp_path):
    together(2, part, tmp_path)
