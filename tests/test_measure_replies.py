import dataclasses

import pytest

from minigpt.errors import UserError
from minigpt.finetune.measure_replies import measure_replies, measured_replies
from minigpt.finetune.tuning import finetune
from minigpt.rundir import RunDir

from .talking import longer, tuning, write_chats


def test_its_held_out_answers_are_measured_again_beside_those_of_the_base(tuned):
    for run in map(str, tuned.values()):
        (found,) = measure_replies([run], "cpu")
        rows = RunDir(run).metrics
        assert found.facts["loss"] == pytest.approx(
            min(r["val_loss"] for r in rows if "val_loss" in r), abs=1e-3
        )
        before = found.facts["baselines"]["before tuning"]
        assert before["loss"] == pytest.approx(rows[0]["val_loss"], abs=1e-4)


def test_runs_with_other_answers_are_not_put_side_by_side(tuned, tmp_path):
    folder = tuned["all"].parent
    config = tuning(folder / "base", folder / "chats.jsonl")
    data = dataclasses.replace(config.data, val_documents=2)
    other = finetune(longer(dataclasses.replace(config, data=data), 1), tmp_path / "other")
    with pytest.raises(UserError, match="have held out different conversations"):
        measure_replies([str(tuned["all"]), str(other)], "cpu")


def test_what_has_changed_since_is_not_measured(tuned, tmp_path):
    config = RunDir(tuned["all"]).config
    chats = write_chats(tmp_path / "chats.jsonl")
    data = dataclasses.replace(config.data, source=str(chats))
    run = finetune(longer(dataclasses.replace(config, data=data), 1), tmp_path / "run")
    write_chats(chats, 36)
    with pytest.raises(UserError, match="has changed since"):
        measured_replies(run)
