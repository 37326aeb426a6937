"""The replay of conversations: what goes in comes out, the oldest make room, and a checkpoint holds all of it."""

import dataclasses

import pytest
import torch

from thespis.core import leaves
from thespis.data.conversations import Conversations
from thespis.turns import Turns


def played(seed: int, episodes: int, most: int = 4) -> Turns:
    """Episodes of 1 to `most` turns, each of 1 to 3 tokens behind 0 to 2 given ones (at least one at first)."""
    g = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=g))

    rows, row, start, ended, n = list[list[tuple[int, int]]](), list[int](), list[int](), list[bool](), 0
    for r in range(episodes):
        made, turns = list[tuple[int, int]](), number(1, most)
        for i in range(turns):
            made += [(number(1, 200), -1) for _ in range(number(0 if i else 1, 2))]
            start.append(len(made))
            made += [(number(1, 200), n) for _ in range(number(1, 3))]
            row.append(r)
            ended.append(i == turns - 1)
            n += 1
        rows.append(made)
    width = max(map(len, rows))
    padded = torch.tensor([[*made, *[(0, -1)] * (width - len(made))] for made in rows])
    end = torch.tensor(ended)
    discount = torch.where(end & (torch.rand(n, generator=g) < 0.5), 0.0, 0.9)
    r, x = torch.tensor(row), torch.randn(n, generator=g)
    return Turns(padded[..., 0], padded[..., 1], padded[..., 0] * 0.0, r, torch.tensor(start), x, discount, end, r, end, r)


@pytest.mark.parametrize("seed", range(3))
def test_what_went_in_comes_out(seed: int) -> None:
    t, replay = played(seed, 7), Conversations.empty(9, 40)
    replay.add(t)
    assert len(replay) == 7
    found = replay.take(torch.arange(7))
    for name in ("tokens", "said", "row", "start", "reward", "discount", "ended"):
        assert torch.equal(getattr(found, name), getattr(t, name)), name
    assert torch.equal(found.stop, t.stop)
    torch.testing.assert_close(replay.returns[:7], t.returns())
    order = torch.tensor([4, 1, 4])
    some = replay.take(order)
    assert some.returns().tolist() == pytest.approx(t.returns()[order].tolist())
    for r, whole in enumerate(order.tolist()):
        mine, theirs = some.start[some.row == r], t.start[t.row == whole]
        assert mine.tolist() == theirs.tolist()
        width = int(t.stop[t.row == whole].max()) + 1
        assert torch.equal(some.tokens[r, :width], t.tokens[whole, :width])


def test_the_oldest_make_room() -> None:
    replay, told = Conversations.empty(5, 40), list[float]()
    for seed in range(4):
        t = played(seed, 3)
        replay.add(t)
        told += t.returns().tolist()
        assert len(replay) == min(len(told), 5)
        assert sorted(replay.take(torch.arange(len(replay))).returns().tolist()) == pytest.approx(sorted(told[-5:]))
    many = played(9, 12)
    replay.add(many)
    assert sorted(replay.returns.tolist()) == pytest.approx(sorted(many.returns()[-5:].tolist()))


def test_a_shorter_episode_leaves_nothing_of_a_longer_one() -> None:
    replay = Conversations.empty(1, 40)
    replay.add(played(0, 1, most=4))
    replay.add(short := played(5, 1, most=1))
    assert torch.equal(replay.take(torch.zeros(1, dtype=torch.int64)).tokens, short.tokens[:, : int(short.stop[0]) + 1])
    assert len(replay.take(torch.zeros(1, dtype=torch.int64)).row) == 1


def test_all_of_it_are_tensors_and_draws_hang_on_torch_s_generator() -> None:
    replay = Conversations.empty(8, 40)
    replay.add(played(0, 6))
    assert set(leaves(replay)) == {f.name for f in dataclasses.fields(Conversations)}
    torch.manual_seed(3)
    one = replay.draw(20)
    torch.manual_seed(3)
    assert torch.equal(one.tokens, replay.draw(20).tokens)
    assert len({tuple(x.tolist()) for x in one.tokens}) == 6, "what is not there yet is never drawn"


def test_the_best_are_those_with_the_highest_returns() -> None:
    replay = Conversations.empty(20, 40)
    replay.add(played(0, 10))
    replay.returns[:10] = torch.tensor([3.0, 1, 4, 1, 5, 9, 2, 6, 5, 3])
    for share, wanted in ((0.1, [5]), (0.2, [5, 7]), (0.3, [4, 5, 7, 8]), (0.0, [5]), (1.0, list(range(10)))):
        assert replay.best(share).tolist() == wanted, share
