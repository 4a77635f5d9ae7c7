"""The targets of conversations: who says what, moved by one, and the loss of what counts."""

import torch

from minigpt.learn.rules import Mistake, check, drawn

ONE = [(3, [10, 11]), (4, [20, 21])]
TWO = [(3, [10]), (4, [20]), (3, [12, 13, 14]), (4, [22, 23])]


@check()
def ids(module):
    """the ids of a conversation"""
    return [list(module.written(turns)[0]) for turns in (ONE, TWO)]


@check()
def said(module):
    """the assistant says its words and their END"""
    return [[int(x) for x in module.written(turns)[1]] for turns in (ONE, TWO)]


@check()
def targets(module):
    """targets are moved by one, and count where the assistant says them"""
    inputs, found = module.example(ONE)
    return {"inputs": inputs.tolist(), "targets": found.tolist()}


@check()
def several_turns(module):
    """several turns, and one in which the assistant says nothing but END"""
    return [[x.tolist() for x in module.example(turns)] for turns in (TWO, [(3, [10]), (4, [])])]


@check()
def a_loss(module):
    """the loss is the mean over the targets that count"""
    found = torch.tensor([[-100, -100, 2, 0, -100], [1, -100, -100, -100, -100]])
    return module.loss(drawn(2, 5, 3), found)


@check()
def what_does_not_count(module):
    """logits where nothing counts do not matter"""
    logits, found = drawn(1, 3, 4), torch.tensor([[-100, 2, 0]])
    other = logits.clone()
    other[0, 0] += drawn(4, seed=3)
    return module.loss(other, found) - module.loss(logits, found)


MISTAKES = [
    Mistake(
        "no START",
        """Turns do not begin with START and the role.""",
        {
            "ids += [START, role, *words, END]": "ids += [role, *words, END]",
            "said += [False, False]": "said += [False]",
        },
        {
            "ids += [START, role, *words, END]": "ids += [START, *words, END]",
            "said += [False, False]": "said += [False]",
        },
    ),
    Mistake(
        "END not learnt",
        """The END after the assistant's words does not count, so the model never learns to stop.""",
        {"[role == ASSISTANT] * (len(words) + 1)": "[role == ASSISTANT] * len(words) + [False]"},
    ),
    Mistake(
        "user learnt",
        """What the user says counts, too: the model would learn to go on asking. Only the assistant's words count.""",
        {"[role == ASSISTANT]": "[True]"},
        {"[role == ASSISTANT]": "[role == USER]"},
    ),
    Mistake(
        "every END learnt",
        """The END after the user's words counts. It is not the assistant who says it.""",
        {"[role == ASSISTANT] * (len(words) + 1)": "[role == ASSISTANT] * len(words) + [True]"},
    ),
    Mistake(
        "role learnt",
        """START and role count, too. Whoever asks for an answer has put them there; the assistant does not say them.""",
        {
            "[False, False] + [role == ASSISTANT] * (len(words) + 1)": "[role == ASSISTANT] * (len(words) + 3)"
        },
        {
            "[False, False] + [role == ASSISTANT]": "[False, role == ASSISTANT] + [role == ASSISTANT]"
        },
    ),
    Mistake(
        "masked by the input",
        """Ids are moved by one and the marks are not: it is masked by the input. The first word of each answer is lost, and
        whatever follows its END counts. Move both: said[1:].""",
        {"~said[1:]": "~said[:-1]"},
    ),
    Mistake(
        "marks moved twice",
        """The marks are moved the wrong way, or twice.""",
        {"~said[1:]": "~said.roll(-1)[1:]"},
    ),
    Mistake(
        "no shift",
        """The targets are not moved: each input is its own target. The target is the id after it.""",
        {"ids[1:].masked_fill(~said[1:], IGNORED)": "ids[:-1].masked_fill(~said[:-1], IGNORED)"},
    ),
    Mistake(
        "nothing masked",
        """Every target counts. Those that the assistant does not say are -100.""",
        {".masked_fill(~said[1:], IGNORED)": ""},
    ),
    Mistake(
        "zero for -100",
        """What does not count is 0, which is the id of a token and would be learnt. It is -100.""",
        {"IGNORED = -100": "IGNORED = 0"},
        {"IGNORED = -100": "IGNORED = -1"},
    ),
    Mistake(
        "inputs masked",
        """The inputs are masked. The model reads everything; only targets are left out.""",
        {"return ids[:-1], ids": "return ids[:-1].masked_fill(~said[:-1], IGNORED), ids"},
    ),
    Mistake(
        "divided by all",
        """The loss is divided by all positions, so a long question makes an answer count less. Divide by the targets that
        count.""",
        {"ignore_index=IGNORED)": 'ignore_index=IGNORED, reduction="sum") / targets.numel()'},
    ),
    Mistake(
        "mean of rows",
        """The mean is taken of each row first, then of the rows. Every target that counts weighs the same: add up all, and
        divide once.""",
        {
            "F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)": "torch.stack([F.cross_entropy(x, t, ignore_index=IGNORED) for x, t in zip(logits, targets)]).mean()"
        },
    ),
    Mistake(
        "sum",
        """The loss is a sum. It is the mean over the targets that count.""",
        {"ignore_index=IGNORED)": 'ignore_index=IGNORED, reduction="sum")'},
    ),
]
