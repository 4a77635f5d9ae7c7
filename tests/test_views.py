import json
import math
import re

import pytest
import torch

import minigpt
from minigpt.errors import UserError
from minigpt.inside import views
from minigpt.interop.causal import CausalLM
from minigpt.interop.loading import load_both
from minigpt.model.transformer import GPT
from minigpt.tokenizer import Tokenizer, bpe_tokenizer

from .conftest import nonsense, sentencepiece_like, tiny
from .test_heads import MADE, TOKENIZER, handmade
from .test_report import Page

BYTES = bpe_tokenizer([])  # 259 ids
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&amp;\x00\x1b[31m\u202e\u2028\r\n\té"


@pytest.fixture(scope="module")
def both(trained):
    return load_both(trained)


def model_of_bytes(**switches) -> GPT:
    torch.manual_seed(0)
    return GPT(tiny(vocab_size=BYTES.vocab_size, block_size=128, **switches)).eval()


def test_the_data_is_what_the_model_computes(both):
    model, tokenizer = both
    data = json.loads(json.dumps(minigpt.look(model, tokenizer, "the cat sat on the mat").data))
    ids = [token["id"] for token in data["tokens"]]
    assert ids == tokenizer.encode("the cat sat on the mat")
    with torch.inference_mode():
        chances = model(torch.tensor([ids]))[0].softmax(dim=-1)
    layers, heads, length = 2, 2, len(ids)
    weights = torch.tensor(data["attention"]["weights"])
    assert weights.shape == (layers, heads, length, length)
    assert (weights.sum(dim=-1) - 1).abs().max() < 1e-5
    assert weights.triu(1).abs().max() == 0
    torch.testing.assert_close(torch.tensor(data["attention"]["mean"]), weights.mean(dim=1))
    last = data["lens"][-1]
    top = chances.topk(5)
    assert last["top"] == top.indices.tolist()
    torch.testing.assert_close(torch.tensor(last["probabilities"]), top.values)
    for place, token in enumerate(data["tokens"][1:]):
        chance = chances[place, ids[place + 1]].item()
        assert token["probability"] == pytest.approx(chance, rel=1e-4)
        assert token["loss"] == pytest.approx(-math.log(chance), rel=1e-4)
        assert token["rank"] == 1 + (chances[place] > chance).sum()
    assert [len(row) for row in data["norms"]["stream"]] == [length] * (layers + 1)
    assert [len(row) for row in data["norms"]["mlp"]] == [length] * layers
    assert torch.tensor(data["vectors"]["key"]).shape == (layers, heads, length, 2)


def test_the_loss_is_that_of_all_tokens_but_the_first(both):
    model, tokenizer = both
    text = "the cat sat on the mat"
    data = minigpt.look(model, tokenizer, text).data
    losses = [token["loss"] for token in data["tokens"][1:]]
    assert data["tokens"][0]["loss"] is None
    assert data["loss"]["tokens"] == len(losses)
    assert data["loss"]["nats_per_token"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    size = len(text) - len(data["tokens"][0]["piece"])
    bits = sum(losses) / math.log(2) / size
    assert data["loss"]["bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_named_heads_stand_in_the_data():
    data = minigpt.look(handmade(), TOKENIZER, "abcabc").data
    assert data["attention"]["names"] == MADE
    assert data["attention"]["here"]["previous"][0][0] > 0.99
    assert data["attention"]["probe"]["induction"][1][0] > 0.9


def test_of_a_long_text_the_end_is_looked_at_and_that_is_said(monkeypatch):
    model = model_of_bytes()
    found = minigpt.look(model, BYTES, "x" * 50 + "y" * 128)
    assert "178 tokens" in found.data["note"]
    assert "last 128" in found.data["note"]
    assert {token["piece"] for token in found.data["tokens"]} == {"y"}
    monkeypatch.setattr(views, "MOST_WEIGHTS", 8 * 40**2)
    assert len(minigpt.look(model, BYTES, "y" * 128).data["tokens"]) == 40
    assert minigpt.look(model, BYTES, "y" * 40).data["note"] is None


def test_the_file_stays_small_however_many_heads_there_are():
    model = GPT(tiny(vocab_size=BYTES.vocab_size, block_size=512, n_layer=8, n_head=16)).eval()
    found = minigpt.look(model, BYTES, "y" * 512)
    assert len(found.text["tokens"]) == 181
    assert len(found.html()) < 6_000_000


def test_what_a_tokenizer_puts_before_a_text_is_looked_at_but_does_not_count():
    tokenizer = Tokenizer(sentencepiece_like(nonsense(2000)), "</s>")
    model = GPT(tiny(vocab_size=tokenizer.vocab_size)).eval()
    data = minigpt.look(model, tokenizer, "the cat").data
    assert data["tokens"][0]["piece"] == "<s>"
    assert data["loss"]["tokens"] == len(tokenizer.encode("the cat"))
    data = minigpt.look(model, tokenizer, "the cat " * 9).data
    assert len(data["tokens"]) == model.config.block_size
    assert data["tokens"][0]["piece"] == "<s>"


def test_a_single_token_is_looked_at_too():
    data = minigpt.look(model_of_bytes(), BYTES, "a").data
    assert data["loss"] is None
    assert data["attention"]["weights"] == [[[[1.0]]] * 4] * 2
    assert data["attention"]["here"] == {}
    assert "NaN" not in json.dumps(data)


def test_rows_of_the_model_that_no_token_has_are_named_by_their_number():
    model = GPT(tiny(vocab_size=320)).eval()
    with torch.no_grad():
        model.head.weight[300] *= 100
    assert "<300>" in minigpt.look(model, BYTES, "abc").data["pieces"].values()


def test_what_cannot_be_looked_at_is_refused():
    with pytest.raises(UserError, match="text is empty"):
        minigpt.look(model_of_bytes(), BYTES, "")
    other = CausalLM.__new__(CausalLM)
    torch.nn.Module.__init__(other)
    other.inner = type("Inner", (), {"config": type("Config", (), {"model_type": "gemma2"})})
    with pytest.raises(UserError, match="a gemma2 model is not looked into here"):
        minigpt.look(other, BYTES, "a")
    damaged = model_of_bytes()
    damaged.norm.weight.data[0] = float("nan")
    with pytest.raises(UserError, match="not finite numbers"):
        minigpt.look(damaged, BYTES, "ab")


def test_a_file_has_to_have_a_place(tmp_path):
    found = minigpt.look(model_of_bytes(), BYTES, "ab")
    for place in (tmp_path, tmp_path / "nowhere" / "look.html"):
        with pytest.raises(UserError, match="cannot be written"):
            found.save(place)


def test_a_hostile_text_cannot_leave_the_data(tmp_path):
    page = minigpt.look(model_of_bytes(), BYTES, HOSTILE).save(tmp_path / "look.html").read_text()
    found = Page(page)  # well nested
    assert found.references == []
    assert "img" not in found.tags
    assert page.count("</script>") == 3
    held = re.search(r'id="look-data">(.*)</script>', page).group(1)
    pieces = "".join(token["piece"] for token in json.loads(held)["tokens"])
    assert pieces.startswith("</script><script>alert(1)")


def test_in_a_notebook_the_page_stands_in_a_frame_of_its_own():
    found = minigpt.look(model_of_bytes(), BYTES, HOSTILE)
    frame = found._repr_html_()
    assert Page(frame).tags == {"iframe"}
    assert 'sandbox="allow-scripts"' in frame


def test_packed_holds_what_data_holds(both):
    found = minigpt.look(*both, "the cat sat on a mat. " * 5)
    packed, data = found.packed, found.data
    assert packed.keys() == data.keys()
    for name in data:
        if name not in ("attention", "vectors"):
            assert packed[name] == data[name]
    assert packed["attention"].keys() == data["attention"].keys()
    assert packed["vectors"].keys() == data["vectors"].keys()
    assert len(json.dumps(packed)) < len(json.dumps(data)) / 2
