import doctest
import os
import sys

import pytest

from minigpt import machine
from minigpt.machine import cores, free_memory_bytes, peak_memory_bytes


def test_the_cores_are_those_this_process_may_use(monkeypatch):
    assert 1 <= cores() <= os.cpu_count()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cores() == 2


def test_where_nobody_counts_there_is_one_core(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cores() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_the_peak_of_memory_is_in_bytes_and_never_falls():
    before = peak_memory_bytes()
    block = b"x" * 20_000_000
    assert peak_memory_bytes() >= max(before, len(block)) > 1e6


def test_where_no_peak_is_kept_it_is_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory_bytes() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps this figure")
def test_the_free_memory_is_in_bytes():
    assert 1e6 < free_memory_bytes() < 1e15


def test_where_the_free_memory_is_not_told_it_is_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "none")
    assert free_memory_bytes() is None
    (tmp_path / "some").write_text("MemTotal: 10 kB\n")
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "some")
    assert free_memory_bytes() is None
    (tmp_path / "some").write_text("MemTotal: 10 kB\nMemAvailable:   7 kB\n")
    assert free_memory_bytes() == 7 * 1024


def test_the_example_in_a_docstring_holds():
    assert doctest.testmod(machine) == (0, 1)


@pytest.mark.parametrize(
    ("name", "dtype", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.0), ("NVIDIA H100 PCIe", "bf16", 756), ("NVIDIA H100 NVL", "fp16", 835),
        ("NVIDIA H200", "bf16", 989.0), ("NVIDIA A100-SXM4-80GB", "bf16", 312),
        ("NVIDIA A100-PCIE-40GB", "tf32", 156),
        ("NVIDIA L4", "bf16", 121), ("NVIDIA L40S", "bf16", 362), ("NVIDIA GeForce RTX 4090", "bf16", 165.2),
        ("NVIDIA A10G", "bf16", 70), ("NVIDIA B200", "bf16", 2250), ("Tesla T4", "fp16", 65.1),
    ],
)  # fmt: skip
def test_gpus_are_known_by_their_names(name, dtype, tera):
    assert machine.peak_flops(name, dtype) == pytest.approx(tera * 1e12)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("NVIDIA H100 80GB HBM3", "fp32"), ("Tesla T4", "bf16"), ("NVIDIA GeForce RTX 4090 Laptop GPU", "bf16"),
        ("NVIDIA GeForce RTX 4090 D", "bf16"), ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "bf16"), ("some other", "bf16"),
    ],
)  # fmt: skip
def test_what_is_not_known_has_no_peak(name, dtype):
    assert machine.peak_flops(name, dtype) is None


def test_one_process_is_the_first_and_several_have_their_ranks(monkeypatch):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    for size, ranks in (("1", (0, 0)), ("4", (3, 1))):
        monkeypatch.setenv("WORLD_SIZE", size)
        assert machine.is_one_of_several() == (size == "4")
        assert (machine.rank(), machine.rank("LOCAL_RANK")) == ranks
    monkeypatch.setenv("RANK", "first")
    assert machine.rank() == 0
