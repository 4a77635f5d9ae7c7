import pytest
import torch

from minigpt.inference import decoder as decoder_module
from minigpt.inference.decoder import Decoder
from minigpt.model.transformer import GPT

from .conftest import SWITCHES, tiny

CLOSE = {"rtol": 0, "atol": 2e-6}


def made(**switches) -> GPT:
    """Return a random model in which gains and biases matter, too."""
    torch.manual_seed(0)
    model = GPT(tiny(**switches)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model


@pytest.fixture(params=SWITCHES.values(), ids=SWITCHES)
def model(request):
    return made(**request.param)


def some_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(29, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@torch.no_grad()
def expected(model: GPT, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids]))[0, -1]


def test_a_prompt_is_read_as_the_model_reads_it(model):
    decoder, ids = Decoder(model), some_ids(12)
    for count in (1, 2, 12):
        found = decoder.prefill(0, ids[:count])
        torch.testing.assert_close(found, expected(model, ids[:count]), **CLOSE)


def test_a_prompt_may_be_read_in_parts(model):
    decoder, ids = Decoder(model), some_ids(12)
    decoder.prefill(0, ids[:3])
    decoder.prefill(0, ids[3:4], 3)
    found = decoder.prefill(0, ids[4:], 4)
    torch.testing.assert_close(found, expected(model, ids), **CLOSE)


def test_texts_of_unequal_length_go_on_beside_each_other_and_alone(model):
    together, alone = Decoder(model, slots=3), Decoder(model)
    texts = [some_ids(12, seed) for seed in range(3)]
    lengths = [1, 4, 6]
    for slot, length in enumerate(lengths):
        together.prefill(slot, texts[slot][:length])
    for _ in range(6):
        found = together.step([text[n] for text, n in zip(texts, lengths, strict=True)], lengths)
        lengths = [n + 1 for n in lengths]
        for text, n, row in zip(texts, lengths, found, strict=True):
            torch.testing.assert_close(row, expected(model, text[:n]), **CLOSE)
    alone.prefill(0, texts[0][:1])
    for n in range(1, 12):
        row = alone.step([texts[0][n]], [n])
        torch.testing.assert_close(row[0], expected(model, texts[0][: n + 1]), **CLOSE)


def test_equal_lengths_need_no_mask(model):
    decoder, ids = Decoder(model, slots=2), some_ids(5)
    for slot in range(2):
        decoder.prefill(slot, ids[:4])
    for row in decoder.step([ids[4]] * 2, [4, 4]):
        torch.testing.assert_close(row, expected(model, ids), **CLOSE)


def test_a_slot_takes_over_the_beginning_of_another(model):
    decoder, ids = Decoder(model, slots=2), some_ids(8)
    decoder.prefill(0, ids[:6])
    decoder.copy(0, 1, 4)
    found = decoder.prefill(1, [7, 3], 4)
    torch.testing.assert_close(found, expected(model, [*ids[:4], 7, 3]), **CLOSE)
    torch.testing.assert_close(decoder.prefill(0, ids[6:], 6), expected(model, ids), **CLOSE)


def test_room_grows_and_long_prompts_are_read_in_parts(model, monkeypatch):
    monkeypatch.setattr(decoder_module, "FIRST_ROOM", 2)
    monkeypatch.setattr(decoder_module, "READ_AT_ONCE", 3)
    decoder, ids = Decoder(model, slots=2), some_ids(12)
    decoder.alone = lambda token, place: pytest.fail("for slots of another size")
    rooms = {decoder.cache[0].size(3)}
    torch.testing.assert_close(decoder.prefill(0, ids[:5]), expected(model, ids[:5]), **CLOSE)
    decoder.prefill(1, ids[:2])
    for place in range(5, 12):
        found = decoder.step([ids[place], ids[place - 3]], [place, place - 3])
        torch.testing.assert_close(found[0], expected(model, ids[: place + 1]), **CLOSE)
        torch.testing.assert_close(found[1], expected(model, ids[: place - 2]), **CLOSE)
        rooms.add(decoder.cache[0].size(3))
    assert rooms == {3, 11, 13}
    assert decoder.alone is None


def test_a_slot_forgets_what_a_shorter_text_is_written_over():
    model = made()
    decoder, ids = Decoder(model), some_ids(5, 1)
    decoder.prefill(0, some_ids(12))
    decoder.prefill(0, ids[:2])
    for n in (2, 3, 4):
        found = decoder.step([ids[n]], [n])
    torch.testing.assert_close(found[0], expected(model, ids), **CLOSE)


@pytest.mark.parametrize("documents", [None, torch.tensor([[0] * 5 + [1] * 7, [0] * 12])])
def test_whole_batches_are_measured_as_the_model_measures_them(model, documents):
    ids = torch.tensor([some_ids(12), some_ids(12, 1)])
    decoder = Decoder(model, slots=0)
    with torch.no_grad():
        found = decoder.head(decoder.hidden(ids, documents=documents))
        wanted = model.head(model.hidden(ids, documents=documents))
    torch.testing.assert_close(found, wanted, **CLOSE)


# Largest difference as a share of the spread of the logits.
@pytest.mark.parametrize(("precision", "apart"), [("bf16", 0.05), ("fp16", 0.01), ("int8", 0.08)])
def test_low_precision_stays_near_and_reads_prompts_and_tokens_alike(model, precision, apart):
    decoder, ids = Decoder(model, precision, slots=2), some_ids(12)
    wanted = expected(model, ids)
    spread = wanted.max() - wanted.min()
    read = decoder.prefill(0, ids)
    decoder.prefill(0, ids[:-1])
    decoder.prefill(1, ids[:-1])
    for found in (read, decoder.step(ids[-1:], [11])[0], decoder.step(ids[-1:] * 2, [11, 11])[1]):
        assert 0 < (found - wanted).abs().max() < apart * spread
