import base64
import doctest
import json

import torch

from minigpt.inside import compact
from minigpt.inside.compact import pack_maps, pack_points, rounded


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(compact, extraglobs={"torch": torch}).failed == 0


def test_numbers_are_short_and_right_to_six_digits():
    exact = torch.randn(500, generator=torch.Generator().manual_seed(0)).exp() ** 4
    short = rounded(exact)
    torch.testing.assert_close(torch.tensor(short), exact, rtol=6e-6, atol=0)
    assert all(len(json.dumps(number)) <= 11 for number in short)
    assert rounded(torch.tensor(0.25)) == 0.25
    assert rounded(torch.tensor([0.0, -1e-30, 1.0])) == [0.0, 0.0, 1.0]


def test_rounded_rows_still_sum_to_one():
    rows = torch.rand(20, 256, generator=torch.Generator().manual_seed(0)).log().softmax(dim=-1)
    assert all(abs(sum(row) - 1) < 1e-6 for row in rounded(rows))


def test_a_packed_map_is_its_lower_triangle():
    weights = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).tril()
    found = base64.b64decode(pack_maps(weights))
    assert len(found) == 2 * 3 * (4 * 5 // 2)
    start = (1 * 3 + 2) * 10  # layer 1, head 2
    for row in range(4):
        for column in range(row + 1):
            byte = found[start + row * (row + 1) // 2 + column]
            assert abs((byte / 255) ** 2 - weights[1, 2, row, column]) < 0.004


def test_packed_points_have_one_scale():
    small, large = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-2.0, 1.0]]])
    packed = [list(base64.b64decode(text)) for text in pack_points(small, large)]
    assert packed == [[192, 128], [1, 192]]
    assert list(base64.b64decode(pack_points(torch.zeros(1, 1, 2))[0])) == [128, 128]
