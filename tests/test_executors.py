import hashlib
import importlib.util

import pyarrow
import pyarrow.parquet
import pytest
from datatrove.executor import SlurmPipelineExecutor

from minigpt.config import DataConfig
from minigpt.data import executors
from minigpt.data.executors import Tasks
from minigpt.data.preparation import go_on
from minigpt.data.prepare import prepare_folder
from minigpt.errors import UserError

from .conftest import nonsense


@pytest.fixture
def text(tmp_path):
    """A data set of four shards."""
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(4):
        documents = [nonsense(200, seed=10 * i + j) for j in range(10)]
        pyarrow.parquet.write_table(pyarrow.table({"text": documents}), folder / f"{i}.parquet")
    return folder


def settings(text) -> DataConfig:
    return DataConfig(source=f"hf:{text}", vocab_size=300, val_documents=5)


def content(folder) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 3, 6])
def test_tasks_of_this_machine_write_the_shards_of_one_process(text, tmp_path, tasks):
    prepare_folder(settings(text), tmp_path / "whole")
    prepare_folder(settings(text), tmp_path / "out", tasks=Tasks("local", tasks))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.slow
def test_finished_parts_are_not_done_again(text, tmp_path, monkeypatch):
    prepare_folder(settings(text), tmp_path / "whole")
    with pytest.raises(RuntimeError, match="lost"):
        prepare_folder(settings(text), tmp_path / "out", tasks=_Failing("local", 1))
    records = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "parts").iterdir()}
    assert len(records) == 2
    prepare_folder(settings(text), tmp_path / "out", tasks=Tasks("local", 2))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


class _Failing(Tasks):
    """Stands in for a machine that is lost after two parts."""


@pytest.fixture(autouse=True)
def failing(monkeypatch):
    original = executors.run_tasks

    def run(folder, workers, tasks):
        if isinstance(tasks, _Failing):
            go_on(folder).encode([0, 1])
            raise RuntimeError("lost")
        return original(folder, workers, tasks)

    monkeypatch.setattr("minigpt.data.prepare.run_tasks", run)


def test_slurm_needs_a_partition(text, tmp_path):
    with pytest.raises(UserError, match="pass --slurm-partition NAME"):
        prepare_folder(settings(text), tmp_path / "out", tasks=Tasks("slurm", 2))


def test_slurm_is_asked_for_an_array_of_tasks_and_one_that_finishes(text, tmp_path, monkeypatch):
    """Without a cluster: what would be handed to sbatch."""
    handed_over = []
    monkeypatch.setattr(SlurmPipelineExecutor, "launch_job", _launch(handed_over))
    queued = prepare_folder(
        settings(text), tmp_path / "out", tasks=Tasks("slurm", 3, "cpu", "01:00:00")
    )
    assert queued is None
    assert handed_over == [("prepare-out", 3, "cpu"), ("finish-out", 1, "cpu")]


def _launch(handed_over):
    def launch(self):
        if self.depends:
            self.depends.launch_job()
        handed_over.append((self.job_name, self.tasks, self.partition))

    return launch


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_writes_the_same_shards(text, tmp_path):
    prepare_folder(settings(text), tmp_path / "whole")
    prepare_folder(settings(text), tmp_path / "out", tasks=Tasks("ray", 2))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_without_ray_it_says_what_to_install(text, tmp_path, monkeypatch):
    monkeypatch.setattr(executors.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install ray"):
        prepare_folder(settings(text), tmp_path / "out", tasks=Tasks("ray", 2))
