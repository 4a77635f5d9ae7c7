import pytest
import torch

from minigpt.errors import UserError
from minigpt.finetune.base import Base
from minigpt.finetune.chatml import CHATML
from minigpt.interop.export import write_chat_template
from minigpt.model.transformer import GPT
from minigpt.tokenizer import bpe_tokenizer, char_tokenizer

from .conftest import tiny


def directory(folder, tokenizer, **switches):
    torch.manual_seed(0)
    model = GPT(tiny(vocab_size=tokenizer.vocab_size, **switches))
    model.save_pretrained(folder, tokenizer)
    return model


def test_a_base_of_ours_has_the_chat_tokens_but_has_not_learnt_them(tmp_path):
    model = directory(tmp_path, bpe_tokenizer([]))
    base = Base(str(tmp_path))
    assert base.template.source == CHATML
    assert base.shape == model.config
    assert base.new == [base.tokenizer.specials[n] for n in ("<|im_start|>", "<|im_end|>")]
    assert base.name == str(tmp_path)
    assert not base.is_adapter


@pytest.mark.parametrize("tied", [True, False])
def test_a_foreign_base_gets_rows_for_them_and_stays_what_it_is(tied, tmp_path):
    letters = char_tokenizer(list("abc\n"))
    model = directory(tmp_path, letters, tie_embeddings=tied)
    base = Base(str(tmp_path))
    assert base.shape.vocab_size == letters.vocab_size + 2
    assert base.new == [letters.vocab_size, letters.vocab_size + 1]
    ids = torch.tensor([[0, 1, 2, 3]])
    for found in (base.model(), base.model()):  # the second one is read again
        found = found.eval()
        torch.testing.assert_close(found(ids)[..., : letters.vocab_size], model(ids))
        assert found.head.weight.size(0) == letters.vocab_size + 2


def test_rows_that_are_there_as_padding_are_taken(tmp_path):
    letters = char_tokenizer(list("abc\n"))
    torch.manual_seed(0)
    GPT(tiny(vocab_size=64)).save_pretrained(tmp_path, letters)
    assert Base(str(tmp_path)).shape.vocab_size == 64


def test_a_template_of_its_own_stays_and_its_tokens_are_known(tmp_path):
    directory(tmp_path, bpe_tokenizer([]))
    own = CHATML.replace("<|im_start|>' +", "<|im_start|>' + 'the ' +")
    write_chat_template(tmp_path, own)
    base = Base(str(tmp_path))
    assert (base.template.source, base.new) == (own, [])


def test_other_weights_have_another_fingerprint(tmp_path):
    directory(tmp_path / "a", bpe_tokenizer([]))
    first = Base(str(tmp_path / "a")).fingerprint
    assert Base(str(tmp_path / "a")).fingerprint == first
    model = GPT.from_pretrained(tmp_path / "a")
    with torch.no_grad():
        model.norm.weight[0] += 1e-6
    model.save_pretrained(tmp_path / "b", bpe_tokenizer([]))
    assert Base(str(tmp_path / "b")).fingerprint != first


def test_what_comes_without_a_tokenizer_is_refused(tmp_path):
    GPT(tiny()).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="comes without a tokenizer"):
        Base(str(tmp_path))
