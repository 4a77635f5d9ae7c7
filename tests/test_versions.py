import pytest

from minigpt.learn.path import EXERCISES, find
from minigpt.learn.versions import Version, rivals, rivals_of_two, rules_of, solution


def test_code_is_run_once():
    version = Version("made = []\nmade.append(1)", "x.py")
    assert version.module is version.module
    assert version.module.made == [1]


def test_a_rival_is_the_solution_with_one_mistake():
    exercise = find("attention")
    one = next(r for r in rivals(exercise) if r.mistakes[0].name == "scale")
    assert one.version.source == solution(exercise).source.replace(" / query.size(-1) ** 0.5", "")


def test_two_mistakes_are_made_where_they_do_not_touch():
    for exercise in (find("attention"), find("mlp")):
        for rival in rivals_of_two(exercise):
            assert len(rival.mistakes) == 2
            assert rival.version.source != solution(exercise).source


def test_checks_come_in_the_order_of_the_file():
    titles = [check.title for check in rules_of(find("attention"))[0]]
    assert titles[0] == "two queries over four keys"
    assert titles[-1] == "scores of thousands give no NaN, and the mask hides them as well"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)
def test_every_mistake_can_be_made(exercise):
    made = {rival.version.source for rival in rivals(exercise)}
    assert len(made) == len(rivals(exercise)) >= 3
    assert solution(exercise).source not in made
    for source in made:
        compile(source, "x.py", "exec")
