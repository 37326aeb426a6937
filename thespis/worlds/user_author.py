"""Users and authors who stream: a click may lead to a follow, and a follow to gifts, if the two meet often enough."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thespis.fault import Fault
from thespis.worlds.feeds import Feed, Floats, Sessions, sigmoid

__all__ = ["Authors", "UserAuthor", "Users", "authors", "pair_value"]

POOL, SHOWN, COUNTED, MOST, BLOCK = 20, 5, 0.2, 5, 7
"""authors of a user; candidates of a request; what one more click, follow or gift adds to its counter, and how many count;
numbers of an observation about each candidate"""
LEVELS = (0.6, 0.3, 0.1)
"""of pairs: care nothing for each other, mildly, strongly"""
CLICK, FOLLOW, GIFT = np.array([[-3.0, -1.5, -0.5], [-5.0, -3.0, -2.0], [-6.0, -2.0, -0.5]])
"""log odds by level: of a click; of a follow, with a click; of a gift, with a click of a follower"""
FAMILIAR, FOLLOWS, KEEN, TURNS, UNIFORM = (0.3, 0.8), 0.8, 1.0, 0.1, 0.25
"""log odds: of a click and of a follow, for each of the first two clicks; of a click of a follower; of a click of a user who is
keen; chance that a user turns keen, or no longer is, at a request; share of the behaviour that is uniform"""
Ints = NDArray[np.integer[Any]]


class Authors(NamedTuple):
    """A authors."""

    click: Floats
    """(A,), log odds of a click that the author adds"""
    depth: Floats
    """(A,), log odds of a gift that the author adds"""
    price: Floats
    """(A,), of a gift, in the mean"""


def authors(seed: int = 0, count: int = 100) -> Authors:
    """Drawn from a seed. Those who get more clicks get fewer gifts."""
    rng = np.random.default_rng(seed)
    click = rng.normal(0, 0.6, count)
    return Authors(click, -1.5 * click + rng.normal(0, 1.5, count), np.exp(rng.normal(0, 0.5, count)))


class Users(Sessions):
    """n users at once, as `UserAuthor` tells."""

    rewards, choices, size, limit = ("click", "follow", "gift"), SHOWN, 1 + SHOWN * BLOCK, 120
    state = ("keen", "author", "level", "match", "count", "candidate")

    def __init__(self, n: int, of: Authors, rng: np.random.Generator) -> None:
        self.of, self.rng = of, rng
        self.keen = np.zeros(n, bool)
        self.author, self.level = np.zeros((2, n, POOL), np.int64)
        self.match, self.count = np.zeros((n, POOL)), np.zeros((n, POOL, 3))
        self.candidate: Ints = np.zeros((n, SHOWN), np.int64)

    def begin(self, rows: NDArray[np.bool_]) -> None:
        count, rng = int(rows.sum()), self.rng
        self.keen[rows] = rng.random(count) < 0.5
        self.author[rows] = rng.integers(len(self.of.click), size=(count, POOL))
        self.level[rows] = rng.choice(3, (count, POOL), p=LEVELS)
        self.match[rows] = self.level[rows] + rng.normal(0, 0.7, (count, POOL))
        self.count[rows] = 0
        self.candidate[rows] = self.candidates(count)

    def candidates(self, n: int) -> Ints:
        return self.rng.random((n, POOL)).argpartition(SHOWN, axis=1)[:, :SHOWN]

    def seen(self) -> Floats:
        at = np.arange(len(self.keen))[:, None], self.candidate
        author = self.author[at]
        about = [self.match[at], self.of.click[author], self.of.depth[author], np.log(self.of.price[author])]
        blocks = np.concatenate([COUNTED * np.minimum(self.count[at], MOST), np.stack(about, -1)], -1)
        return np.concatenate([self.keen[:, None], blocks.reshape(len(blocks), -1)], 1)

    def behaviour(self) -> Floats:
        at = np.arange(len(self.keen))[:, None], self.candidate
        score = np.exp(0.7 * self.match[at] + self.of.click[self.author[at]] + self.count[at][..., 1])
        return (1 - UNIFORM) * score / score.sum(1, keepdims=True) + UNIFORM / SHOWN

    def step(self, action: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        rng, n = self.rng, len(action)
        at = np.arange(n), self.candidate[np.arange(n), action]
        author, count = self.author[at], self.count[at]
        click, follow, gift = chances(self.of, self.level[at], author, count, self.keen)
        clicked = rng.random(n) < click
        followed = clicked & (rng.random(n) < follow)
        gave = clicked & (rng.random(n) < gift)
        self.count[at] += np.stack([clicked, followed, gave], 1)
        self.keen = self.keen ^ (rng.random(n) < TURNS)
        self.candidate = self.candidates(n)
        amount = self.of.price[author] * np.exp(rng.normal(-0.32, 0.8, n)) * gave  # of mean 1
        return np.stack([1.0 * clicked, 1.0 * followed, amount], 1), np.zeros(n, bool)


def chances(of: Authors, level: Ints, author: Ints, count: Floats, keen: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """Of a click; and with one, of a follow and of a gift."""
    follows, familiar = count[..., 1], np.minimum(count[..., 0], 2)
    click = sigmoid(CLICK[level] + of.click[author] + FAMILIAR[0] * familiar + FOLLOWS * follows + KEEN * keen)
    follow = (1 - follows) * sigmoid(FOLLOW[level] + FAMILIAR[1] * familiar)
    return click, follow, follows * sigmoid(GIFT[level] + of.depth[author])


class UserAuthor(Feed):
    """A month of a user, 120 requests: at each, one of five authors who stream is shown. A proxy: no platform's data stand behind
    it.

    Observation: 36 numbers. Whether the user is keen, 1 or 0; and for each candidate 7: clicks, follows and gifts that this
    author had of this user, a fifth each and at most 1; a match, from which the hidden level of care can be guessed; the log odds
    of a click and of a gift that the author adds; the log of its price. Action: the candidate that is shown.
    Reward: three numbers. "click" and "follow" are 1 or 0; "gift" is an amount.
    Ends: cut off after 120 requests.

    A user has 20 of 100 authors, five of whom are candidates of a request, drawn at random. A pair's care is none (60%), mild
    (30%) or strong (10%), and hidden; its match is that, 0, 1 or 2, and noise of 0.7. A pair clicks by the log odds of its level
    and its author, with 0.3 more for each of the first two clicks, 0.8 for a follower, 1 for a keen user. With a click it
    follows, once, likelier after one or two clicks; with a click of a follower it gives, log normal around the price. Authors who
    get more clicks get fewer gifts. A user turns keen, or no longer is, by the chance 0.1 at a request. The behaviour of logs:
    three quarters by exp(0.7 match + author's log odds of a click + 1 for a follower), one quarter uniform. `authors_seed` draws
    authors, `count` is how many.

    Shaped after what Li et al. 2025 (arXiv:2507.16253) tell of their pairs.
    """

    metadata = {"render_modes": [], "reward_names": list(Users.rewards), "reward_weights": [1, 10, 50]}  # noqa: RUF012

    def __init__(self, authors_seed: int = 0, count: int = 100) -> None:
        if not isinstance(count, int) or count < 1:
            raise Fault(f"count is {count!r}; allowed: a whole number of 1 or more")
        self.of = authors(authors_seed, count)
        super().__init__()

    def sessions(self, n: int, rng: np.random.Generator) -> Users:
        return Users(n, self.of, rng)


def pair_value(of: Authors, author: int, level: int, gamma: float, turns: float = TURNS) -> Floats:
    """What a pair is worth, in closed form: the discounted clicks, follows and gifts of one that is shown at every step for ever,
    (3, 2, 2, 3), from (clicks 0, 1, 2 or more; follows; keen; reward). `turns`: the chance that the user turns between steps."""
    shape, states = (3, 2, 2), list(np.ndindex(3, 2, 2))
    onward, reward = np.zeros((12, 12)), np.zeros((12, 3))
    for i, (clicks, follows, keen) in enumerate(states):
        count = np.array([clicks, follows, 0.0])
        click, follow, gift = (float(x) for x in chances(of, np.int64(level), np.int64(author), count, np.bool_(keen)))  # type: ignore[arg-type]
        reward[i] = click, click * follow, click * gift * of.price[author]
        for turned, how in ((0, 1 - turns), (1, turns)):
            k, more = keen ^ turned, min(clicks + 1, 2)
            onward[i, np.ravel_multi_index((clicks, follows, k), shape)] += how * (1 - click)
            onward[i, np.ravel_multi_index((more, follows, k), shape)] += how * click * (1 - follow)
            onward[i, np.ravel_multi_index((more, 1, k), shape)] += how * click * follow
    return np.asarray(np.linalg.solve(np.eye(12) - gamma * onward, reward).reshape(3, 2, 2, 3))
