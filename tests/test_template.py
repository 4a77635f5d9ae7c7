import doctest
import random

import pytest

from minigpt.errors import UserError
from minigpt.finetune.chatml import CHATML
from minigpt.inference import template
from minigpt.inference.template import Template
from minigpt.tokenizer import Tokenizer, bpe_tokenizer, char_tokenizer
from minigpt.tokenizer.trainer import count_pieces, train_merges

from .conftest import nonsense, sentencepiece_like

# As most models have it: no blocks for training.
PLAIN = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 2's: the system message in the first turn, trimmed contents, eos after an answer.
LLAMA = """
{%- if messages[0].role == 'system' %}{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}
    {%- set rest = messages[1:] %}
{%- else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for message in rest %}
    {%- if message.role == 'user' %}
        {{- bos_token + '[INST] ' + (system if loop.first else '') + message.content | trim + ' [/INST]' }}
    {%- else %}BEGIN{{- ' ' + message.content | trim + eos_token -}}END
    {%- endif %}
{%- endfor %}
"""
LLAMA_BLOCKS = LLAMA.replace("BEGIN", "{% generation %}").replace("END", "{% endgeneration %}")
LLAMA_PLAIN = LLAMA.replace("BEGIN", "").replace("END", "")
# As Qwen3's: what an answer looks like depends on whether another follows.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + ('<think>\n\n</think>\n\n' if loop.last and "
    "m.role == 'assistant' else '') + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TALKS = [
    [("user", "Hello"), ("assistant", "Yes?")],
    [("system", "Be brief."), ("user", " Hi\n"), ("assistant", "\n\n Größe, 日本 🙂\n"), ("user", "x")],
    [("user", "\n\n 1\n"), ("assistant", "a"), ("user", "now { % }  "), ("assistant", " b "), ("user", "c"),
     ("assistant", "3 of 3")],
    [("assistant", "I begin"), ("assistant", "and go on"), ("user", "?"), ("user", "!")],
    [("user", "only a question")],
]  # fmt: skip


def learnt(pattern: str) -> Tokenizer:
    """Return a tokenizer in which line ends and words are merged."""
    text = "assistant\n\n\n the user\n\n said: system\n" * 9 + nonsense(800)
    return bpe_tokenizer(train_merges(count_pieces([text], pattern), 120), pattern)


def sentencepiece() -> Tokenizer:
    backend = sentencepiece_like(nonsense(400))
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return Tokenizer(backend, "</s>")


TOKENIZERS = {
    "bytes": lambda: bpe_tokenizer([]),
    "gpt2": lambda: learnt("gpt2"),
    "qwen2": lambda: learnt("qwen2"),
    "sentencepiece": sentencepiece,
}


def messages_of(turns) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def drawn(seed: int) -> list[dict[str, str]]:
    """Return a conversation of texts with all that may go wrong at their ends."""
    rng = random.Random(seed)
    parts = ["the", " ", "\n", "\n\n", "cat", "assistant", "ß", "🙂", "e\u0301", "7", "\t", ":", "user\n"]  # fmt: skip
    turns = [("system", "s")] * rng.randrange(2)
    for _ in range(rng.randrange(1, 5)):
        for role in ("user", "assistant"):
            turns.append((role, "".join(rng.choices(parts, k=rng.randrange(1, 9)))))
    return messages_of(turns)


def said_by(found, tokenizer) -> str:
    return tokenizer.decode([i for i, said in zip(found.ids, found.said, strict=True) if said])


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(template) == (0, 2)


@pytest.mark.slow  # imports transformers
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("source", [CHATML, LLAMA_BLOCKS], ids=["chatml", "llama"])
def test_ids_and_labels_are_those_of_transformers(source, kind, tmp_path):
    import transformers

    TOKENIZERS[kind]().save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    made = Template(source, Tokenizer.load(tmp_path))
    for messages in [*map(messages_of, TALKS), *map(drawn, range(40))]:
        wanted = theirs.apply_chat_template(
            messages, chat_template=source, return_dict=True, return_assistant_tokens_mask=True
        )
        found = made.labelled(messages)
        assert found.ids == wanted["input_ids"]
        assert found.said == [bool(said) for said in wanted["assistant_masks"]]
        assert made.ids(messages) == theirs.apply_chat_template(
            messages, chat_template=source, add_generation_prompt=True, return_dict=False
        )


def test_the_assistants_tokens_and_the_ends_of_its_turns_are_labelled_and_nothing_else():
    tokenizer = bpe_tokenizer([])
    start, end = (tokenizer.specials[name] for name in ("<|im_start|>", "<|im_end|>"))
    for turns in [*TALKS, [("user", "a<|im_end|>b"), ("assistant", "<|im_start|>c<|endoftext|>")]]:
        ids, said = [], []
        for role, content in turns:
            frame, text = tokenizer.encode(f"{role}\n"), tokenizer.encode(content)
            ids += [start, *frame, *text, end, *tokenizer.encode("\n")]
            said += [False] * (1 + len(frame)) + [role == "assistant"] * (len(text) + 1) + [False]
        found = Template(CHATML, tokenizer).labelled(messages_of(turns))
        assert (found.ids, found.said) == (ids, said)


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize(
    ("plain", "blocks"), [(PLAIN, CHATML), (LLAMA_PLAIN, LLAMA_BLOCKS)], ids=["chatml", "llama"]
)
def test_a_template_without_blocks_gives_the_same_labels(plain, blocks, kind):
    tokenizer = TOKENIZERS[kind]()
    for messages in [*map(messages_of, TALKS), *map(drawn, range(20))]:
        if "[INST]" in plain and messages[0]["role"] == "assistant":
            continue
        found = Template(plain, tokenizer).labelled(messages)
        assert found == Template(blocks, tokenizer).labelled(messages)


def test_a_token_that_an_answer_shares_with_what_stands_before_it_counts():
    tokenizer = bpe_tokenizer([(ord("\n"), ord("\n"))], "qwen2")  # which keeps line ends together
    found = Template(CHATML, tokenizer).labelled(messages_of([("user", "a"), ("assistant", "\nb")]))
    assert said_by(found, tokenizer) == "\n\nb<|im_end|>"


def test_the_labels_hold_where_a_tokenizer_writes_a_text_in_another_way():
    tokenizer = bpe_tokenizer([])
    content = tokenizer.backend.to_str().replace('"normalizer":null', '"normalizer":{"type":"NFC"}')
    composing = Tokenizer(type(tokenizer.backend).from_str(content))
    said = messages_of([("user", "e\u0301" * 3), ("assistant", "e\u0301!"), ("user", "x")])
    found = Template(CHATML, composing).labelled(said)
    assert said_by(found, composing) == "é!<|im_end|>"


def test_an_end_behind_the_block_belongs_to_the_answer():
    block = "{% generation %}{{ m.content }}{% endgeneration %}"
    behind = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        f"{{% if m.role == 'assistant' %}}{block}{{% else %}}{{{{ m.content }}}}{{% endif %}}"
        "{{ '\n<|im_end|>' }}{% endfor %}"
    )
    tokenizer = bpe_tokenizer([])
    said = messages_of([("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")])
    found = Template(behind, tokenizer).labelled(said)
    assert said_by(found, tokenizer) == "b\n<|im_end|>d\n<|im_end|>"


def test_a_special_token_that_takes_the_spaces_beside_it_leaves_the_labels_in_place():
    content = bpe_tokenizer([]).backend.to_str()
    for side in ("lstrip", "rstrip"):
        for name in ("<|im_start|>", "<|im_end|>"):
            place = content.index(f'"content":"{name}"')
            content = content[:place] + content[place:].replace(f'"{side}":false', f'"{side}":true', 1)  # fmt: skip
    tokenizer = Tokenizer(type(bpe_tokenizer([]).backend).from_str(content))
    found = Template(CHATML, tokenizer).labelled(
        messages_of([("user", " a \n"), ("assistant", " b \n"), ("user", "c")])
    )
    assert said_by(found, tokenizer) == " b<|im_end|>"
    assert tokenizer.decode(found.ids).endswith(" b<|im_end|><|im_start|>user\nc<|im_end|>")


def test_a_template_that_writes_a_turn_in_another_way_when_more_follows_is_refused():
    made = Template(THINKING, bpe_tokenizer([]))
    two = messages_of([("user", "a"), ("assistant", "b")])
    found = made.labelled(two)
    assert said_by(found, made.tokenizer) == "<think>\n\n</think>\n\nb<|im_end|>"
    with pytest.raises(UserError, match=r"message 2 in another way .* \{% generation %\} blocks"):
        made.labelled(two * 2)


def test_marks_are_characters_that_nobody_says():
    private = "".join(map(chr, range(0xE000, 0xF900)))
    tokenizer = bpe_tokenizer([])
    found = Template(CHATML, tokenizer).labelled(
        messages_of([("user", private), ("assistant", private + "<|im_end|>")])
    )
    assert said_by(found, tokenizer) == private + "<|im_end|>" * 2


def test_a_character_that_the_tokenizer_does_not_know_is_refused():
    with pytest.raises(UserError, match="does not know"):
        Template(PLAIN, char_tokenizer(list("ab"))).labelled(messages_of([("user", "a")]))


def test_a_template_that_is_too_deep_is_refused_as_one_that_is_no_jinja():
    for source in ("{% if", "{{ " + "(" * 5000):
        with pytest.raises(UserError, match="the chat template is no Jinja"):
            Template(source, char_tokenizer(["a"]))
