"""A feed of short videos: how long each is watched pays, likes and comments are rare, and a bored user leaves."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thespis.fault import Fault
from thespis.worlds.feeds import Feed, Floats, Sessions, sigmoid

__all__ = ["Catalogue", "ShortVideo", "Videos", "catalogue"]

TOPICS = 8
UNIFORM = 0.2
"""share of the behaviour that is uniform: no choice has a propensity below UNIFORM / videos"""


class Catalogue(NamedTuple):
    """Who watches, and what there is: U users, V videos."""

    taste: Floats
    """(U, 8), of length 1"""
    topic: Floats
    """(V, 8), of length 1"""
    seconds: Floats
    """(V,), how long a video is"""
    pull: Floats
    """(V,), log odds of watching on, of a user who does not care for its topic"""
    like: Floats
    """(V,), log odds of a like, of such a user; and so of the others"""
    comment: Floats
    hate: Floats


def catalogue(seed: int = 0, users: int = 2_000, videos: int = 20) -> Catalogue:
    """Drawn from a seed. Clickbait makes users watch on, gets fewer likes and comments, and more
    hate; long videos are watched longer, and get fewer likes and comments too."""
    rng = np.random.default_rng(seed)
    taste, topic = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(rng.standard_normal, ((users, 8), (videos, 8))))
    bait, long, quality, talk = rng.standard_normal((4, videos))
    like, comment = -4.0 - 0.3 * bait - 0.1 * long + 0.5 * quality, -4.6 - 0.3 * bait - 0.1 * long + 0.7 * talk
    return Catalogue(taste, topic, 15 * np.exp(0.25 * long), 0.6 * bait, like, comment, -6.2 + bait)


class Videos(Sessions):
    """n sessions at once, as `ShortVideo` tells."""

    rewards, size, limit = ("watch", "like", "comment", "hate"), 2 * TOPICS + 2, 40
    state = ("taste", "recent", "bored", "at")

    def __init__(self, n: int, of: Catalogue, rng: np.random.Generator) -> None:
        self.of, self.rng, self.choices = of, rng, len(of.topic)
        self.taste, self.recent = np.zeros((2, n, TOPICS))
        self.bored, self.at = np.zeros((2, n))

    def begin(self, rows: NDArray[np.bool_]) -> None:
        count = int(rows.sum())
        self.taste[rows] = self.of.taste[self.rng.integers(len(self.of.taste), size=count)]
        self.recent[rows], self.bored[rows], self.at[rows] = 0, 0, 0

    def seen(self) -> Floats:
        return np.concatenate([2 * self.taste, 2 * self.recent, self.bored[:, None], self.at[:, None] / self.limit], 1)

    def behaviour(self) -> Floats:
        score = np.exp(2 * self.taste @ self.of.topic.T + 0.5 * self.of.pull)
        return (1 - UNIFORM) * score / score.sum(1, keepdims=True) + UNIFORM / self.choices

    def chances(self, action: NDArray[np.integer[Any]]) -> tuple[Floats, Floats]:
        """Of choices (n,): the share of a video that is watched on average, (n,); chances (n, 3) of like, comment, hate."""
        of, care = self.of, 2.5 * (self.taste * self.of.topic[action]).sum(1)
        half = care[:, None] / 2
        odds = np.stack([of.like, of.comment, of.hate], 1)[action] + half * [1, 1, -1]
        return sigmoid(of.pull[action] + care - self.bored), sigmoid(odds)

    def step(self, action: NDArray[np.integer[Any]]) -> tuple[Floats, NDArray[np.bool_]]:
        share, chance = self.chances(action)
        noise = np.exp(self.rng.normal(-0.125, 0.5, len(action)))  # of mean 1
        acted = self.rng.random(chance.shape) < chance
        reward = np.concatenate([(self.of.seconds[action] * share * noise / 10)[:, None], acted], 1)
        reward[:, 3] *= -1
        topic = self.of.topic[action]
        again = np.maximum((self.recent * topic).sum(1), 0)
        self.bored = 0.8 * self.bored + again
        self.recent = 0.7 * self.recent + 0.3 * topic
        self.at = self.at + 1
        stays = sigmoid(2.2 - 0.3 * self.bored + (share - 0.5))
        return reward, self.rng.random(len(action)) >= stays


class ShortVideo(Feed):
    """A session of one of 2,000 users: at each step the next of 20 videos. A proxy: no platform's data stand behind it.

    Observation: 18 numbers: twice the user's taste for 8 topics, twice the mean topic of the last videos, how bored the user is,
    and steps taken / 40. Action: a video.
    Reward: four numbers. "watch" is seconds watched / 10; "like" and "comment" are 1 or 0; "hate" is -1 or 0.
    Ends: terminated when the user leaves; cut off after 40 steps.

    With c = 2.5 times the product of taste and topic, b the boredom, and a video's own log odds, a user watches the share
    sigmoid(pull + c - b) of its seconds, times noise of mean 1; likes by chance sigmoid(like + c / 2), comments by
    sigmoid(comment + c / 2), hates by sigmoid(hate - c / 2), and stays by sigmoid(2.2 - 0.3 b' + share - 1/2). b' = 0.8 b +
    max(0, product of topic and mean topic); the mean topic keeps 0.7 of itself. The behaviour of logs: four fifths by
    exp(0.8 c + pull / 2), one fifth uniform. `catalogue_seed` draws users and videos.

    Shaped after what Cai et al. 2023 (arXiv:2302.01680) tell of their feed.
    """

    metadata = {"render_modes": [], "reward_names": list(Videos.rewards), "reward_weights": [1, 0, 0, 0]}  # noqa: RUF012

    def __init__(self, videos: int = 20, users: int = 2_000, catalogue_seed: int = 0) -> None:
        for name, x in (("videos", videos), ("users", users)):
            if not isinstance(x, int) or x < 2:
                raise Fault(f"{name} is {x!r}; allowed: a whole number of 2 or more")
        self.of = catalogue(catalogue_seed, users, videos)
        super().__init__()

    def sessions(self, n: int, rng: np.random.Generator) -> Videos:
        return Videos(n, self.of, rng)
