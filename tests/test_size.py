import doctest

import pytest
import torch

from minigpt.model import size
from minigpt.model.transformer import GPT

from .conftest import tiny
from .test_transformer import EVERY_COMBINATION


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(size) == (0, 1)


def test_the_count_is_that_of_the_model():
    with torch.device("meta"):
        for switches in EVERY_COMBINATION:
            made = GPT(tiny(head_dim=16, **switches))
            assert size.parameter_count(made.config) == sum(p.numel() for p in made.parameters()), (
                switches
            )


@pytest.mark.parametrize(
    ("ids", "rows"), [(65, 65), (4095, 4095), (4096, 4096), (4097, 4160), (50304, 50304)]
)
def test_rows_are_padded_from_4096_on(ids, rows):
    assert size.padded_vocab_size(ids) == rows
