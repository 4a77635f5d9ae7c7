import numpy as np
import pytest

from minigpt.errors import UserError
from minigpt.finetune.chatml import CHATML
from minigpt.finetune.conversations import Conversations, Recorded, read_conversations
from minigpt.finetune.targets import make_examples
from minigpt.inference.template import Template
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .conftest import shared

TOKENIZER = bpe_tokenizer([])
CHAT = Template(CHATML, TOKENIZER)
END = TOKENIZER.specials["<|im_end|>"]


def talk(*contents: str, number: int = 1) -> Recorded:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)]
    return Recorded(number, messages)


def of(*recorded: Recorded) -> Conversations:
    return Conversations("some.jsonl", "line", list(recorded))


def test_an_example_ends_with_the_last_target_which_ends_the_last_answer():
    for contents in (["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d", "e"]):
        (example,) = make_examples(of(talk(*contents)), CHAT, 1000).good
        answers = contents[1::2]
        wanted = [i for answer in answers for i in (*TOKENIZER.encode(answer), END)]
        assert example.ids[example.said].tolist() == wanted
        assert example.ids[-1] == END
        assert example.said[-1]
        whole = CHAT.labelled(talk(*contents).messages)
        assert example.ids.tolist() == whole.ids[: len(example.ids)]
        assert not any(whole.said[len(example.ids) :])


def test_a_long_conversation_is_cut_after_the_last_answer_that_fits():
    turns = ["a" * 5, "b" * 7, "c" * 9, "d" * 11, "e" * 3, "f" * 2]
    lengths = [
        make_examples(of(talk(*turns[:n])), CHAT, 1000).good[0].length for n in range(2, 7, 2)
    ]
    for room in range(lengths[0], lengths[-1] + 3):
        made = make_examples(of(talk(*turns)), CHAT, room)
        kept = sum(length <= room for length in lengths)
        (example,) = made.good
        assert example.length == lengths[kept - 1]
        assert (made.cut, made.turns_cut) == (int(kept < 3), 3 - kept)
    said = make_examples(of(talk(*turns)), CHAT, lengths[1]).sentences()
    assert said[1] == (
        f"1 conversation longer than {lengths[1]} tokens, cut after the last answer that fits: 1 turn left out"
    )


def test_a_conversation_whose_first_answer_does_not_fit_is_counted_and_left_out():
    shorter = make_examples(of(talk("a", "b")), CHAT, 1000).good[0].length
    made = make_examples(of(talk("a", "bc", number=7), talk("a", "b", number=8)), CHAT, shorter)
    assert (made.too_long, [one.number for one in made.good]) == ([7], [8])
    assert made.sentences() == [
        f"1 conversation of {shorter} tokens to learn from; 2 of them are the assistant's, and count",
        f"1 conversation left out, whose first answer does not end within {shorter} tokens: line 7",
    ]
    with pytest.raises(
        UserError, match=r"nothing to learn from: of 1 conversation none .*\(too long\)"
    ):
        make_examples(of(talk("a", "bc")), CHAT, shorter)


def test_a_conversation_of_more_turns_than_there_is_room_for_takes_no_time():
    (example,) = make_examples(of(talk(*["a"] * 100_000)), CHAT, 100).good
    assert example.length <= 100
    assert example.said.sum() == 2 * (102 // 23)  # a turn takes 23 tokens, the last one 2 less


def test_what_template_or_tokenizer_refuse_is_broken():
    source = (
        "{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('not this') }}{% endif %}"
        "{{ m.content + eos_token }}{% endfor %}"
    )
    letters = Template(source, char_tokenizer(list("abno")))
    made = make_examples(
        of(talk("a", "no"), talk("a", "€", number=2), talk("a", "b", number=3)), letters, 9
    )
    assert [one.number for one in made.good] == [3]
    said = made.sentences()
    assert said[1] == "2 broken records left out: refused by template or tokenizer: 2"
    assert (
        "line 1: refused by template or tokenizer (the chat template refuses the conversation: not this)"
        in said[2]
    )
    assert "does not know '€'" in said[3]
    with pytest.raises(UserError, match=r"some\.jsonl, line 2: .* mend or remove that record"):
        make_examples(of(talk("a", "b"), talk("a", "€", number=2)), letters, 9, strict=True)
    with pytest.raises(UserError, match=r"nothing to learn from: .*not this"):
        make_examples(of(talk("a", "no")), letters, 9)


def test_a_template_whose_answers_do_not_end_is_refused():
    with pytest.raises(UserError, match="would never end one; take a template that does"):
        make_examples(of(talk("a", "b")), Template("{{ messages[-1].content }}", TOKENIZER), 99)


def test_a_published_set_of_instructions_becomes_examples():
    found = read_conversations(shared("instruction-data.json"))
    made = make_examples(found, CHAT, 1024)
    assert len(made.good) == 1100
    for recorded, example in zip(found.good, made.good, strict=True):
        answer = recorded.messages[-1]["content"]
        assert TOKENIZER.decode(example.ids[example.said]) == answer + "<|im_end|>"
        assert np.flatnonzero(~example.said)[-1] == example.length - len(answer.encode()) - 1
