"""Which episodes of a rollout are whole, who is compared with whom, and what a rater may be and say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from thespis.core import Batch, Fault
from thespis.data import Episode, compared, rater, win_rates
from thespis.worlds import raters

T, N = 6, 2


def rollout() -> Batch:
    """Environment 0: steps 0-1 (cut off), 2-4 (terminated), 5 (under way); environment 1: 0-2, 3-5, both terminated."""
    ended, over = torch.zeros(2, T, N, dtype=torch.bool)
    ended[[1, 4, 5], 0] = ended[[2, 5], 1] = True
    over[4, 0] = over[[2, 5], 1] = True
    reward = torch.arange(T * N, dtype=torch.float32).view(T, N)
    return Batch(reward[..., None], reward.long(), reward, 0.9 * ~over, reward[..., None], {"ended": ended})


def test_only_whole_episodes_are_numbered() -> None:
    found = compared(rollout(), rater(None), 5)
    none = T * N
    assert found.episode.T.tolist() == [[0, 0, 1, 1, 1, none], [2, 2, 2, 3, 3, 3]]


def test_questions_are_about_two_episodes_and_win_rates_are_their_means() -> None:
    asked: list[tuple[float, float]] = []

    def by_sum(first: Episode, second: Episode) -> float:
        assert first.obs[:, 0].equal(first.reward)
        assert first.action.equal(first.reward.long())
        asked.append((float(first.reward.sum()), float(second.reward.sum())))
        return 0.25 if asked[-1][0] > asked[-1][1] else 0.75

    torch.manual_seed(0)
    found = compared(rollout(), by_sum, 200)
    sums = [2.0, 4 + 6 + 8, 1 + 3 + 5, 7 + 9 + 11]
    assert asked == [(sums[i], sums[j]) for i, j in zip(found.first.tolist(), found.second.tolist(), strict=True)]
    assert (found.first != found.second).all()
    pairs = torch.bincount(found.first * 4 + found.second, minlength=16).view(4, 4)
    assert (pairs + torch.eye(4) > 0).all()  # 200 questions, of 12 kinds: every kind is asked
    for i, rate in enumerate(win_rates(found)[:4].tolist()):
        got = []
        for a, b, won in zip(found.first.tolist(), found.second.tolist(), found.won.tolist(), strict=True):
            got += [won] * (a == i) + [1 - won] * (b == i)
        assert rate == pytest.approx(sum(got) / len(got), abs=1e-6)
    assert (win_rates(found)[4:] == 0.5).all()


def test_without_two_whole_episodes_nothing_is_asked() -> None:
    b = rollout()
    b.extra["ended"][:, 1] = b.extra["ended"][:4, 0] = False
    found = compared(b, lambda first, second: 1 / 0, 7)
    assert found.weight.tolist() == [0] * 7
    assert (win_rates(found) == 0.5).all()


def failing(first: Episode, second: Episode) -> float:
    raise ValueError("no idea")


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (lambda a, b: 2.0, "answered 2; allowed: from 0"),
        (lambda a, b: float("nan"), "answered nan"),
        (failing, "ValueError: no idea"),
    ],
)
def test_an_answer_that_is_none_is_told(rate: Callable[[Episode, Episode], float], words: str) -> None:
    with pytest.raises(Fault, match=words):
        compared(rollout(), rate, 3)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cycle", "cannot be imported"), ("no_such_module:f", "cannot be imported"), ("math:pi", "cannot be called"),
        ("math:tau2", "cannot be imported"),
    ],
)  # fmt: skip
def test_a_rater_that_is_none_is_told(name: str, words: str) -> None:
    with pytest.raises(Fault, match=words):
        rater(name)


def episode(action: list[int], reward: float = 0.0) -> Episode:
    return Episode(torch.zeros(len(action), 1), torch.tensor(action), torch.full((len(action),), reward))


def test_raters_say_what_they_are_told_to() -> None:
    assert [rater(None)(episode([0] * n, 1.0), episode([0] * 2, 1.0)) for n in (1, 2, 3)] == [0, 0.5, 1]
    cycle = rater("thespis.worlds.raters:cycle")
    assert [[cycle(episode([a]), episode([b])) for b in range(3)] for a in range(3)] == [[0.5, 0, 1], [1, 0.5, 0], [0, 1, 0.5]]
    third, all_of, none = episode([0, 1, 1]), episode([0, 0, 0]), episode([1, 1, 1])
    assert [raters.shares_a_third(third, x) for x in (third, all_of, none)] == [0.5, 1, 1]
    assert raters.shares_a_third(all_of, none) == 0
    torch.manual_seed(0)
    better, worse = episode([0], 1.0), episode([0], 0.0)
    said = [raters.often_mistaken(better, worse) for _ in range(2_000)]
    assert sum(said) / len(said) == pytest.approx(0.7, abs=0.035)  # 3.4 standard deviations
