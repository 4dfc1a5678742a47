"""Tokens drawn from logits: the right distribution, the same on any number of ranks."""

import torch
from torch import Tensor

from model.parallel.grid import make_grid
from model.sampling import draw_keys, draw_tokens, gumbel_noise
from tests.gloo import in_one_rank, run_ranks

NUM_DRAWS, NUM_IDS = 100_000, 8


@in_one_rank
def test_draws_follow_the_softmax_over_the_allowed_ids() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 3.0, -6.0, 0.5, 9.0]).expand(NUM_DRAWS, NUM_IDS)
    is_allowed = torch.arange(NUM_IDS) < 7
    keys = draw_keys(torch.arange(NUM_DRAWS), torch.zeros(NUM_DRAWS, 1, dtype=torch.int64))
    drawn = draw_tokens(logits, keys.view(-1), is_allowed, make_grid(1))
    expected = torch.softmax(logits[0, :7], 0)
    shares = torch.bincount(drawn, minlength=NUM_IDS) / NUM_DRAWS
    deviation = (expected * (1 - expected) / NUM_DRAWS).sqrt()
    assert (((shares[:7] - expected) / deviation).abs() < 4).all()
    assert shares[7] == 0


def test_noise_is_standard_gumbel_and_each_key_and_id_has_its_own() -> None:
    noise = gumbel_noise(
        draw_keys(torch.arange(1000), torch.zeros(1000, 1).long()).view(-1), torch.arange(1000)
    )
    assert abs(float(noise.mean()) - 0.5772) < 0.01
    assert abs(float(noise.std()) - 1.2825) < 0.01
    correlations = torch.corrcoef(noise[:50])
    assert float((correlations - torch.eye(50)).abs().max()) < 0.2
    again = gumbel_noise(
        draw_keys(torch.tensor([7]), torch.tensor([[0]])).view(-1), torch.tensor([3])
    )
    assert again == noise[7, 3]


def test_keys_depend_on_row_and_position_only() -> None:
    rows, positions = torch.tensor([5, -9, 2**62]), torch.tensor([[0, 3], [1, 2], [0, 1]])
    keys = draw_keys(rows, positions)
    assert len(set(keys.flatten().tolist())) == 6
    assert torch.equal(keys[1:2], draw_keys(rows[1:2], positions[1:2]))
    assert keys[0, 1] == draw_keys(rows[:1], torch.tensor([[3]]))[0, 0]


def drawn_by_rank() -> Tensor:
    grid = make_grid(torch.distributed.get_world_size())
    logits = torch.randn(50, NUM_IDS, generator=torch.Generator().manual_seed(1))
    mine = logits.chunk(grid.tp_size, dim=1)[grid.tp_rank]
    is_allowed = (torch.arange(NUM_IDS) != 2).chunk(grid.tp_size)[grid.tp_rank]
    return draw_tokens(mine, torch.arange(50), is_allowed, grid)


def test_draws_are_equal_on_all_ranks_and_on_any_number_of_them() -> None:
    (alone,) = run_ranks(drawn_by_rank, 1)
    for world_size in (2, 4):
        for drawn in run_ranks(drawn_by_rank, world_size):
            assert torch.equal(drawn, alone)
    assert 2 not in alone.tolist()
