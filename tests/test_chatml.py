import json

import pytest

from minigpt.finetune.chatml import CHATML, with_chat_tokens
from minigpt.inference.conversation import Conversation
from minigpt.inference.template import Template
from minigpt.interop.export import chat_template, write_chat_template
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

SAID = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": " Hi\n"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Oh."},
]


def test_the_template_writes_chatml():
    tokenizer = bpe_tokenizer([])
    wanted = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in SAID)
    made = Template(CHATML, tokenizer)
    assert tokenizer.decode(made.labelled(SAID).ids) == wanted
    assert tokenizer.decode(made.ids(SAID)) == wanted + "<|im_start|>assistant\n"
    assert made.ends() == {tokenizer.specials["<|im_end|>"]}


def test_what_is_asked_in_a_chat_is_what_was_trained_on():
    tokenizer = bpe_tokenizer([])
    chat = Conversation(tokenizer, CHATML)
    for message in SAID:
        chat.add(**message)
    prompt = chat.prompt_ids(1000).ids
    trained = Template(CHATML, tokenizer).labelled([*SAID, {"role": "assistant", "content": "Well"}])  # fmt: skip
    assert trained.ids[: len(prompt)] == prompt
    assert trained.said.index(True, len(prompt) - 1) == len(prompt)


def test_it_stands_in_the_run_directory_where_all_look_for_it(tmp_path):
    write_chat_template(tmp_path, CHATML)
    assert chat_template(tmp_path) == CHATML


@pytest.mark.slow  # imports transformers
def test_transformers_finds_it_there(tmp_path):
    import transformers

    tokenizer = bpe_tokenizer([])
    tokenizer.save(tmp_path)
    write_chat_template(tmp_path, CHATML)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    found = theirs.apply_chat_template(SAID, add_generation_prompt=True, return_dict=False)
    assert found == Template(CHATML, tokenizer).ids(SAID)


def test_a_tokenizer_without_the_chat_tokens_gets_them_behind_its_own():
    made = bpe_tokenizer([])
    assert with_chat_tokens(made) is made
    for tokenizer in (char_tokenizer(list("ab")), char_tokenizer(list("ab"), ends=False)):
        longer = with_chat_tokens(tokenizer)
        count = tokenizer.vocab_size
        assert {n: longer.specials[n] for n in ("<|im_start|>", "<|im_end|>")} == {
            "<|im_start|>": count,
            "<|im_end|>": count + 1,
        }
        assert longer.vocab_size == count + 2
        assert longer.encode("abba") == tokenizer.encode("abba")
        assert longer.eos_id == tokenizer.eos_id


def test_what_ends_an_answer_ends_it_for_transformers_too(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 7, "x": 1}')
    for _ in range(2):
        write_chat_template(tmp_path, CHATML, {9})
    found = json.loads((tmp_path / "generation_config.json").read_text())
    assert found == {"eos_token_id": [9, 7], "x": 1}
