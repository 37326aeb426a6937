"""Live streams in a feed of short videos: one that is not wanted costs minutes now, and users later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thespis.fault import Fault
from thespis.worlds.feeds import Feed, Floats, Sessions, sigmoid

__all__ = ["Audience", "LiveFeed", "Lives", "audience", "best", "opened", "states", "text", "value"]

STEP, MOST, TIRED = 4, 12, 3
"""what a live that is ignored adds to the annoyance; the most that there is of it; the weariness just after a live"""
FLOOR = 0.05
"""of logs: no choice has a smaller chance"""
Ints = NDArray[np.integer[Any]]


class Audience(NamedTuple):
    """Who watches, and what there is: U users, K kinds of lives. All that the world is made of."""

    affinity: Floats
    """(U,), log odds of watching a live that is shown"""
    minutes: Floats
    """(U,), of short videos in a request"""
    pull: Floats
    """(K,), log odds that a kind adds"""
    live: Floats
    """(K,), minutes for which it is watched, if it is"""
    share: Floats
    """(K,), of the candidates"""
    weary: float = 0.3
    """log odds of watching that are lost, times the weariness: 3 after a request with a live, then 2, 1, 0"""
    bored: float = 0.05
    """short videos are watched exp(-bored x annoyance / 4) times as long"""
    displaced: float = 0.2
    """share of the short videos that a live takes, if it is watched"""
    stay: float = 3.0
    """log odds of staying, of a user who is not annoyed"""
    annoyed: float = 0.4
    """log odds of staying that are lost for each live that was ignored, as long as it is remembered"""
    spread: tuple[float, float] = (0.6, 1.2)
    """standard deviation of the log of minutes: of short videos, of a live"""


def audience(seed: int = 0, users: int = 2_000) -> Audience:
    """Drawn from a seed: six of ten users care little for lives, one of ten much. Of four kinds of lives, those that fewer watch
    are watched for longer."""
    rng = np.random.default_rng(seed)
    affinity = rng.normal(rng.choice([-2.0, -0.5, 1.0], size=users, p=[0.6, 0.3, 0.1]), 0.5)
    minutes = np.exp(rng.normal(-0.7, 0.5, users))
    return Audience(affinity, minutes, np.array([0.8, 0.0, -0.8, -1.6]), np.array([2.5, 5.0, 12.0, 30.0]), np.full(4, 0.25))


class Lives(Sessions):
    """n sessions at once, as `LiveFeed` tells."""

    rewards, choices, size, limit = ("watch", "live", "shown"), 2, 6, 200
    state = ("user", "annoyed", "tired", "kind")

    def __init__(self, n: int, of: Audience, rng: np.random.Generator) -> None:
        self.of, self.rng = of, rng
        self.user: Ints
        self.annoyed: Ints
        self.tired: Ints
        self.kind: Ints
        self.user, self.annoyed, self.tired, self.kind = np.zeros((4, n), np.int64)

    def begin(self, rows: NDArray[np.bool_]) -> None:
        count = int(rows.sum())
        self.user[rows], self.kind[rows] = self.rng.integers(len(self.of.affinity), size=count), self.kinds(count)
        self.annoyed[rows], self.tired[rows] = 0, 0

    def kinds(self, n: int) -> Ints:
        return self.rng.choice(len(self.of.share), n, p=self.of.share)

    def seen(self) -> Floats:
        return seen(self.of, self.user, self.annoyed, self.tired, self.kind)

    def behaviour(self) -> Floats:
        wish = self.of.affinity[self.user] + self.of.pull[self.kind] + np.log(self.of.live[self.kind]) - 2.5
        show = FLOOR + 0.85 * sigmoid(wish)
        return np.stack([1 - show, show], 1)

    def step(self, action: Ints) -> tuple[Floats, NDArray[np.bool_]]:
        of, n, shown = self.of, len(action), action > 0
        wanted = of.affinity[self.user] + of.pull[self.kind] - of.weary * self.tired
        watched = shown & (self.rng.random(n) < sigmoid(wanted))
        noise = np.exp(self.rng.normal(size=(2, n)) * np.array(of.spread)[:, None] - 0.5 * np.square(of.spread)[:, None])
        video = of.minutes[self.user] * np.exp(-of.bored * self.annoyed / STEP) * (1 - of.displaced * watched) * noise[0]
        live = of.live[self.kind] * watched * noise[1]
        self.annoyed = np.where(shown & ~watched, np.minimum(self.annoyed + STEP, MOST), np.maximum(self.annoyed - 1, 0))
        self.tired = np.where(shown, TIRED, np.maximum(self.tired - 1, 0))
        self.kind = self.kinds(n)
        left = self.rng.random(n) >= sigmoid(of.stay - of.annoyed * self.annoyed / STEP)
        return np.stack([video + live, live, -1.0 * shown], 1), left


def seen(of: Audience, user: Ints, annoyed: Ints, tired: Ints, kind: Ints) -> Floats:
    """Observations (..., 6), of numbers that are broadcast."""
    parts = of.affinity[user], np.log(of.minutes[user]), annoyed / STEP, tired / TIRED, of.pull[kind], np.log(of.live[kind])
    return np.stack(np.broadcast_arrays(*parts), -1)


class LiveFeed(Feed):
    """A session of one of 2,000 users: at each request a live stream is put among the short videos, or none. A proxy: no
    platform's data stand behind it.

    Observation: six numbers. The user's log odds of watching a live; log of the minutes of short videos that are watched in a
    request; annoyance / 4; weariness / 3; log odds that the live at hand adds; log of the minutes for which such a live is
    watched. Action: 1 shows it, 0 does not.
    Reward: three numbers. "watch" is minutes of videos and lives together; "live" those of lives; "shown" is -1 where one was
    shown, else 0: a floor of -0.2 allows one in five requests.
    Ends: terminated when the user leaves; cut off after 200 requests.

    A live that is shown is watched by chance sigmoid(affinity + pull - 0.3 weariness), then for its kind's minutes times noise
    (log normal, of mean 1), and a fifth of the videos is lost. Weariness is 3 after a request with a live, then 2, 1, 0. A live
    that is not watched adds 4 to the annoyance, up to 12; else it falls by 1 a request. Annoyance y makes videos exp(-0.05 y / 4)
    times as long, and the user stays by chance sigmoid(3 - 0.4 y / 4). Of four kinds of lives, each as often, those that fewer
    watch are watched for longer. The behaviour of logs shows one by chance 0.05 + 0.85 sigmoid(affinity + pull + log minutes -
    2.5).

    `catalogue_seed` draws users; or a world file gives all numbers, as thespis fit-world writes it (`file`). Shaped after what
    Liu et al. 2024 (arXiv:2412.10381) tell of their feed.
    """

    metadata = {"render_modes": [], "reward_names": list(Lives.rewards), "reward_weights": [1, 0, 0]}  # noqa: RUF012

    def __init__(self, users: int = 2_000, catalogue_seed: int = 0, file: str | None = None) -> None:
        if not isinstance(users, int) or users < 1:
            raise Fault(f"users is {users!r}; allowed: a whole number of 1 or more")
        self.of = opened(file) if file else audience(catalogue_seed, users)
        super().__init__()

    def sessions(self, n: int, rng: np.random.Generator) -> Lives:
        return Lives(n, self.of, rng)


# ------------------------------------------------------------------------------------------------------- solved exactly


class Model(NamedTuple):
    """The world as a finite one, without its limit: U users, Y annoyances, T = 4 of how lately, K kinds; action 0, or 1."""

    chance: Floats
    """(U, 1, T, K), of watching what is shown"""
    video: Floats
    """(U, Y, 1, 1)"""
    stays: Floats
    """(Y,), by the annoyance after a request"""
    calmer: Ints
    """(Y,), the annoyance after a request without a live that was ignored"""
    worse: Ints
    """(Y,), and after one with"""
    later: Ints
    """(T,)"""


def model(of: Audience) -> Model:
    y, t = np.arange(MOST + 1), np.arange(TIRED + 1)
    chance = sigmoid(of.affinity[:, None, None, None] + of.pull - of.weary * t[:, None])
    video = (of.minutes[:, None] * np.exp(-of.bored * y / STEP))[..., None, None]
    stays = sigmoid(of.stay - of.annoyed * y / STEP)
    return Model(chance, video, stays, np.maximum(y - 1, 0), np.minimum(y + STEP, MOST), np.maximum(t - 1, 0))


def states(of: Audience) -> Floats:
    """The observation (U, Y, T, K, 6) of every state."""
    u, k = len(of.affinity), len(of.pull)
    return seen(of, *np.ix_(np.arange(u), np.arange(MOST + 1), np.arange(TIRED + 1), np.arange(k)))


def value(of: Audience, show: Floats) -> dict[str, float]:
    """What a policy that shows by chances (U, Y, T, K) is worth, exactly: "watch", "live", "requests" of a session of the mean
    user, and "exposure", the share of requests with a live."""
    m, ys, ts = model(of), MOST + 1, TIRED + 1
    users, size = len(of.affinity), ys * ts
    watched, none = show * m.chance, 1 - show
    live = watched * of.live
    video = m.video * (1 - of.displaced * watched)
    gains = np.stack([(x * of.share).sum(-1).reshape(users, size) for x in (video + live, live, np.ones_like(show), show)], -1)
    onward = np.zeros((users, size, size))
    y, t = (x.ravel() for x in np.mgrid[:ys, :ts])
    row = np.arange(size)
    for chance, at, lately in (
        (none, m.calmer[y], m.later[t]), (watched, m.calmer[y], TIRED), (show - watched, m.worse[y], TIRED),
    ):  # fmt: skip
        onward[:, row, at * ts + lately] += (chance * of.share).sum(-1).reshape(users, size) * m.stays[at]
    watch, lives, requests, shown = np.linalg.solve(np.eye(size) - onward, gains)[:, 0].mean(0)
    return {"watch": float(watch), "live": float(lives), "requests": float(requests), "exposure": float(shown / requests)}


def best(of: Audience, exposure: float = 0.2, rounds: int = 20) -> Floats:
    """The policy (U, Y, T, K), 0 or 1, of the most "watch" whose exposure is at most that: by dynamic programming, with a price
    on a live that is found by bisection."""
    m, low, high = model(of), 0.0, 50.0
    v = np.zeros((len(of.affinity), MOST + 1, TIRED + 1))

    def plan(price: float) -> Floats:
        nonlocal v
        while True:
            after = m.stays[:, None] * v
            none = m.video + exposure * price + after[:, m.calmer][:, :, m.later][..., None]
            seen = m.video * (1 - of.displaced) + of.live + after[:, m.calmer, TIRED][..., None, None]
            ignored = m.video + after[:, m.worse, TIRED][..., None, None]
            shown = m.chance * seen + (1 - m.chance) * ignored - (1 - exposure) * price
            new = (np.maximum(none, shown) * of.share).sum(-1)
            if np.abs(new - v).max() < 1e-6:
                return np.asarray(shown > none, float)
            v = new

    if value(of, show := plan(0.0))["exposure"] <= exposure:
        return show
    for _ in range(rounds):
        price = (low + high) / 2
        show = plan(price)
        low, high = (low, price) if value(of, show)["exposure"] <= exposure else (price, high)
    return plan(high)


# ----------------------------------------------------------------------------------------------------- files of this world


def text(of: Audience, about: dict[str, Any]) -> str:
    """A world file: JSON."""
    numbers = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in of._asdict().items()}
    return json.dumps({"world": "thespis/LiveFeed-v0", "fitted_to": about, **numbers}, indent=1) + "\n"


def opened(file: str | Path) -> Audience:
    """Of a world file. Fault: it is none."""
    try:
        found = json.loads(Path(file).read_text())
        own: dict[str, Any] = {k: np.array(found[k], float) for k in ("affinity", "minutes", "pull", "live", "share")}
        own |= {k: float(found[k]) for k in ("weary", "bored", "displaced", "stay", "annoyed")}
        of = Audience(**own, spread=(float(found["spread"][0]), float(found["spread"][1])))
        sizes = len(of.affinity) == len(of.minutes) > 0, len(of.pull) == len(of.live) == len(of.share) > 0
        numbers = np.concatenate([*of[:5], of[5:10], of.spread])
        whole = np.isfinite(numbers).all() and (of.minutes > 0).all() and (of.live > 0).all() and (of.share >= 0).all()
    except OSError as error:
        raise Fault(f"file: {file} cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise Fault(f"file: {file} is no world file: {type(error).__name__} {' '.join(str(error).split())}") from None
    if not (all(sizes) and whole and of.affinity.ndim == 1 and abs(of.share.sum() - 1) < 1e-6):
        raise Fault(f"file: {file} is no world file: its numbers do not fit together")
    return of
