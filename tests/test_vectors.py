import pytest
import torch

from minigpt.inside.trace import trace, weights_of
from minigpt.inside.vectors import planes, project
from minigpt.model.transformer import GPT

from .conftest import tiny


def test_points_of_a_plane_keep_their_distances_and_all_of_their_variance():
    generator = torch.Generator().manual_seed(0)
    flat = torch.randn(9, 2, generator=generator)
    axes = torch.linalg.qr(torch.randn(5, 2, generator=generator)).Q.T
    found, explained = project(flat @ axes + 7)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(flat, flat), atol=1e-5, rtol=0)  # fmt: skip
    assert explained.item() == pytest.approx(1, abs=1e-5)


def test_the_share_of_variance_is_that_of_the_largest_eigenvalues():
    points = torch.randn(30, 6, generator=torch.Generator().manual_seed(1))
    found, explained = project(points)
    eigenvalues = torch.linalg.eigvalsh(points.T.cov())
    assert explained.item() == pytest.approx((eigenvalues[-2:].sum() / eigenvalues.sum()).item())
    torch.testing.assert_close(found.var(dim=0), eigenvalues[-2:].flip(0))


@pytest.mark.parametrize(("points", "channels"), [(1, 4), (3, 1)])
def test_a_single_point_or_channel_has_a_plane_too(points, channels):
    found, explained = project(torch.randn(2, points, channels))
    assert found.shape == (2, points, 2)
    torch.testing.assert_close(explained, torch.ones(2))
    assert found[..., 1].abs().max() == 0


def test_where_an_axis_points_does_not_depend_on_the_sign_that_svd_returns():
    points = torch.randn(8, 3, generator=torch.Generator().manual_seed(2))
    found, _ = project(points)
    mirrored, _ = project(-points)
    torch.testing.assert_close(mirrored, -found)


def test_moving_all_keys_changes_no_attention():
    found = trace(GPT(tiny(n_kv_head=2)), [1, 2, 3, 4, 5])
    moved = found.key + torch.randn(2, 2, 1, 8)
    torch.testing.assert_close(weights_of(found.query, moved), found.weights, atol=1e-6, rtol=0)


def test_queries_meet_the_keys_of_their_group():
    found = planes(trace(GPT(tiny(n_kv_head=2)), [1, 2, 3, 4, 5]))
    assert found["query"].shape == found["key"].shape == found["value"].shape == (2, 4, 5, 2)
    assert torch.equal(found["value"][:, 0], found["value"][:, 1])  # heads 0 and 1 share theirs
    assert not torch.equal(found["value"][:, 1], found["value"][:, 2])
    assert found["explained"].shape == found["value_explained"].shape == (2, 4)
    # The two clouds have one middle.
    torch.testing.assert_close(found["query"].mean(dim=2), found["key"].mean(dim=2), atol=1e-5, rtol=0)  # fmt: skip
