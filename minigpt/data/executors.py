"""A planned preparation in; its parts done as tasks of one machine, of a SLURM cluster or of Ray, by datatrove.

A task takes every N-th part. The shards are those that one process writes, for what is in them depends on the part
alone; a task that is done is not done again.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minigpt.data.preparation import go_on
from minigpt.errors import UserError
from minigpt.extras import importing, missing

Executor = Literal["local", "slurm", "ray"]
LOGS = "logs"  # datatrove's, beside the folder of the tokens


@dataclass(frozen=True)
class Tasks:
    """Who does the parts, and in how many tasks.

    Attributes:
        executor: this machine, SLURM, or Ray.
        number: of tasks; at most one for each part has work.
        partition, time: as of sbatch, for SLURM.
    """

    executor: Executor
    number: int = 1
    partition: str = ""
    time: str = "24:00:00"


def run_tasks(folder: Path, workers: int, tasks: Tasks) -> bool:
    """Run the parts of the preparation in `folder` as tasks; return whether they are done now.

    Args:
        folder: seen from every machine that takes part.
        workers: tasks at once; for SLURM, cores of a task.
        tasks: how.

    Returns:
        False for SLURM, whose jobs are queued; the last of them finishes the folder.

    Raises:
        UserError: datatrove (or Ray) is not installed, or SLURM lacks a partition.
    """
    with importing("scale", f"--executor {tasks.executor}"):
        from datatrove import executor as executors
    folder = folder.resolve()
    logs = folder.with_name(f"{folder.name}-{LOGS}")
    pipeline: Any = [_Step(folder)]
    if tasks.executor != "slurm":
        if tasks.executor == "ray" and importlib.util.find_spec("ray") is None:
            raise missing("ray", "--executor ray", "pip install ray")
        made = {"local": executors.LocalPipelineExecutor, "ray": executors.RayPipelineExecutor}
        at_once = min(tasks.number, workers)
        made[tasks.executor](
            pipeline,
            tasks=tasks.number,
            workers=at_once,
            logging_dir=str(logs),
            skip_completed=False,
        ).run()
        return True
    if not tasks.partition:
        raise UserError(
            "--executor slurm needs to know where to queue; pass --slurm-partition NAME"
        )
    # Which parts are done stands in the folder; datatrove would believe its own notes of a folder that is gone.
    common: Any = {"time": tasks.time, "partition": tasks.partition, "skip_completed": False}
    encode = executors.SlurmPipelineExecutor(
        pipeline,
        tasks=tasks.number,
        cpus_per_task=workers,
        job_name=f"prepare-{folder.name}",
        logging_dir=str(logs / "encode"),
        **common,
    )
    finish: Any = [_Finish(folder)]
    executors.SlurmPipelineExecutor(
        finish,
        tasks=1,
        job_name=f"finish-{folder.name}",
        logging_dir=str(logs / "finish"),
        depends=encode,
        **common,
    ).run()
    return False


class _Step:
    """A pipeline step: datatrove takes any callable of (documents, rank, world size)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Write the parts of this task."""
        work = go_on(self.folder)
        work.encode(range(rank, work.source.parts, world_size))


class _Finish(_Step):
    """The last step: comparison and manifest."""

    def __call__(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        """Finish the folder."""
        go_on(self.folder).finish(lambda line: None)
