"""What the processes of a run agree on, how they meet and part, and how each notices that another is gone."""

import os
import signal
import threading
import time

import numpy as np
import pytest
import torch
import torch.distributed as dist

from minigpt import ranks as module
from minigpt.errors import LostError, PeerError, RunError, UserError
from minigpt.ranks import ALONE, join, launch, own_part, restarts

from .several import end, start, together

CPU = torch.device("cpu")
WHOLE = {
    "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}  # fmt: skip


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


# ----------------------------------------------------------------------------------------------------- the environment


@pytest.fixture
def environment(monkeypatch):
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("name", WHOLE.keys() - {"WORLD_SIZE"})
def test_an_environment_that_is_not_whole_is_refused(environment, name):
    environment.delenv(name)
    with pytest.raises(UserError, match=rf"not all that torchrun sets beside it \('{name}'\)"):
        join(CPU)


def test_a_rank_that_is_no_number_is_refused(environment):
    environment.setenv("RANK", "first")
    with pytest.raises(UserError, match="'first'"):
        join(CPU)


def test_several_processes_on_one_named_gpu_or_on_mps_are_refused(environment):
    with pytest.raises(UserError, match=r"train.device is cuda:1, .*; pass cuda"):
        join(torch.device("cuda:1"))
    with pytest.raises(UserError, match=r"several processes train on cpu or cuda, not on mps"):
        join(torch.device("mps"))


def test_more_processes_than_gpus_are_refused(environment):
    environment.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"2 processes were started on this host, which has 1 GPUs"):
        join(torch.device("cuda"))


def test_without_world_size_a_process_is_alone(environment):
    environment.delenv("WORLD_SIZE")
    assert join(CPU).size == 1
    environment.setenv("WORLD_SIZE", "1")
    assert join(CPU).size == 1


def test_who_never_comes_is_not_waited_for_longer_than_minutes(environment):
    environment.setattr(module, "MEETING_WAIT", module.datetime.timedelta(seconds=0.3))
    environment.setenv("MASTER_PORT", "0")
    with pytest.raises(RunError, match="not all of the 2 processes have come within"):
        join(CPU)


def test_one_call_of_torchrun_is_told_from_another(monkeypatch):
    for name in ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert (launch(), restarts()) == ("", 0)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job-7")
    assert (launch(), restarts()) == ("job-7", 2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert launch() == f"process {os.getppid()}"


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
