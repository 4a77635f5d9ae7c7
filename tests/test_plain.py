import torch

from minigpt.inference.plain import Plain

from .test_decoder import CLOSE, expected, made, some_ids


def test_slots_remember_their_texts_and_hand_them_on():
    model, ids = made(), some_ids(12)
    plain = Plain(model, slots=2)
    torch.testing.assert_close(plain.prefill(0, ids[:4]), expected(model, ids[:4]), **CLOSE)
    plain.prefill(1, ids[:2])
    found = plain.step([ids[4], ids[2]], [4, 2])
    torch.testing.assert_close(found[0], expected(model, ids[:5]), **CLOSE)
    torch.testing.assert_close(found[1], expected(model, ids[:3]), **CLOSE)
    plain.copy(1, 0, 3)
    torch.testing.assert_close(plain.step([ids[3]], [3])[0], expected(model, ids[:4]), **CLOSE)


def test_a_text_that_begins_anew_is_not_mixed_with_what_was_there():
    model, ids = made(), some_ids(6)
    plain = Plain(model)
    plain.prefill(0, some_ids(12, 1))
    torch.testing.assert_close(plain.prefill(0, ids), expected(model, ids), **CLOSE)
    torch.testing.assert_close(plain.step([ids[0]], [0])[0], expected(model, ids[:1]), **CLOSE)
