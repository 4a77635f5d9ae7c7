import torch

from minigpt.model.rope import Rotary, rotary_frequencies, rotate


def test_scores_depend_on_the_distance_only():
    torch.manual_seed(0)
    rotary = Rotary(rotary_frequencies(16, 10_000.0), 64)
    query, key = torch.randn(2, 1, 1, 1, 16)
    scores = {
        (at, distance): (rotate(query, *rotary(at + distance, 1)) * rotate(key, *rotary(at, 1)))
        .sum()
        .item()
        for at in (0, 7, 31)
        for distance in (0, 1, 13)
    }
    for distance in (0, 1, 13):
        assert abs(scores[0, distance] - scores[7, distance]) < 1e-4
        assert abs(scores[0, distance] - scores[31, distance]) < 1e-4
    assert abs(scores[0, 1] - scores[0, 13]) > 1e-3


def test_turning_keeps_lengths_and_the_first_position_stays():
    rotary, x = Rotary(rotary_frequencies(8, 100.0), 4), torch.randn(1, 2, 4, 8)
    turned = rotate(x, *rotary(0, 4))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[:, :, 0], x[:, :, 0])


def test_a_quarter_turn_by_hand():
    cos, sin = torch.tensor([[0.0]]), torch.tensor([[1.0]])
    assert rotate(torch.tensor([[[[1.0, 2.0]]]]), cos, sin).tolist() == [[[[-2.0, 1.0]]]]


def test_the_angles_are_not_part_of_the_weights():
    assert not Rotary(rotary_frequencies(8, 100.0), 4).state_dict()
