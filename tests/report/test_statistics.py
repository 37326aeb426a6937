"""The statistics of few runs: published examples, closed forms, slow loops."""

import math

import numpy as np
import pytest

from thespis.report.statistics import improvement, interquartile_mean, interval, profile, resample

# the examples of rliable's own tests (google-research/rliable, tests/rliable/metrics_test.py): runs x tasks, and their answers
X = list(np.array([[1, 2], [2, 2], [1, 1], [2, 1]]).T)
Y = list(np.array([[1, 1], [2, 2], [3, 3]]).T)


def normal(*shape, mean=0.0, seed=0):
    return np.random.default_rng(seed).normal(mean, 1, shape)


def test_the_published_examples():
    assert interquartile_mean(X) == 1.5
    assert interquartile_mean(Y) == 2
    assert improvement(X, Y) == pytest.approx(1 / 3)


@pytest.mark.parametrize("n", range(1, 14))
def test_the_interquartile_mean_by_a_loop(n):
    values = sorted(normal(n).tolist())
    kept = [v for i, v in enumerate(values) if n // 4 <= i < n - n // 4]
    assert interquartile_mean([np.array(values[::-1])]) == pytest.approx(sum(kept) / len(kept))


def test_it_is_scipys_trimmed_mean():
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    scores = [normal(n, seed=n) for n in (3, 7, 9)]
    assert interquartile_mean(scores) == pytest.approx(stats.trim_mean(np.concatenate(scores), 0.25))


def test_of_a_normal_it_is_the_mean_and_of_outliers_it_takes_no_notice():
    assert interquartile_mean([normal(100_000)]) == pytest.approx(0, abs=0.02)
    assert interquartile_mean([np.array([1.0, 2, 3, 1e9])]) == 2.5


def test_each_point_of_curves_by_itself():
    curves = [normal(5, 3, seed=1), normal(4, 3, seed=2)]
    assert interquartile_mean(curves).tolist() == [interquartile_mean([c[:, i] for c in curves]) for i in range(3)]


def test_the_profile_by_counting_and_of_normals_by_the_distribution():
    scores, taus = [np.array([0.0, 1.0]), np.array([1.0, 2.0, 3.0])], np.array([-1, 0, 1, 2.5, 3])
    assert profile(scores, taus).tolist() == [1, 4 / 5, 2 / 5, 1 / 5, 0]
    taus = np.array([-1.0, 0.0, 0.5])
    exact = [0.5 * math.erfc(t / math.sqrt(2)) for t in taus]
    assert profile([normal(200_000)], taus) == pytest.approx(exact, abs=0.01)


def test_improvement_by_a_loop_and_of_normals_by_the_distribution():
    x, y = [normal(4, seed=1), np.array([1.0, 2.0])], [normal(3, seed=2), np.array([1.0, 1.0, 3.0])]
    loops = [sum((i > j) + 0.5 * (i == j) for i in a for j in b) / (len(a) * len(b)) for a, b in zip(x, y, strict=True)]
    assert improvement(x, y) == pytest.approx(sum(loops) / 2)
    assert improvement(x, y) + improvement(y, x) == pytest.approx(1)
    exact = 0.5 * math.erfc(-1 / 2)  # P(N(1, 1) > N(0, 1)) = Phi(1 / sqrt 2)
    assert improvement([normal(3000, mean=1)], [normal(3000, seed=1)]) == pytest.approx(exact, abs=0.015)


def test_runs_are_drawn_within_their_environment():
    rng, scores = np.random.default_rng(0), [np.array([1.0, 2.0]), np.array([10.0, 20.0, 30.0])]
    seen = [set(), set()]
    for _ in range(200):
        drawn = resample(scores, rng)
        assert [len(d) for d in drawn] == [2, 3]
        for s, d in zip(seen, drawn, strict=True):
            s |= {tuple(sorted(d))}
    assert [len(s) for s in seen] == [3, 10]  # all multisets: C(n + k - 1, k)
    assert all(set(x) <= {10, 20, 30} for x in seen[1])


def test_the_interval_of_three_runs_is_their_range():
    """A bootstrap mean of 3 is the lowest run with probability 1/27 > 2.5%."""
    low, high = interval(interquartile_mean, [np.array([1.0, 5.0, 2.0])])
    assert (low, high) == (1, 5)


def test_the_interval_of_two_runs_is_exact():
    """The mean of a draw is 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4: at level 0.4 the quantiles 0.3 and 0.7 are 1/2."""
    assert [float(x) for x in interval(interquartile_mean, [np.array([0.0, 1.0])], level=0.4)] == [0.5, 0.5]
    assert [float(x) for x in interval(interquartile_mean, [np.array([0.0, 1.0])], level=0.6)] == [0, 1]


def test_the_interval_of_many_runs_is_students():
    """Of the mean of the middle half of n normals: standard error sqrt(1.19 / n) (trimmed mean, Huber 1981)."""
    low, high = interval(interquartile_mean, [normal(400)], draws=4000)
    middle = interquartile_mean([normal(400)])
    assert high - middle == pytest.approx(1.96 * math.sqrt(1.19 / 400), rel=0.15)
    assert middle - low == pytest.approx(1.96 * math.sqrt(1.19 / 400), rel=0.15)


def test_one_run_has_no_interval():
    with pytest.raises(AssertionError, match="no spread"):
        interval(interquartile_mean, [np.array([1.0])])


def test_the_same_scores_give_the_same_interval():
    x = [normal(5, 4)]
    assert np.array_equal(interval(interquartile_mean, x), interval(interquartile_mean, x))
