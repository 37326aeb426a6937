"""An ion beam that magnets must hold in the middle: a section of a superconducting linac, and the line before an RFQ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from thespis.fault import Fault
from thespis.worlds.samples import normal, uniform

__all__ = ["BeamOrbit", "BeamTransmission", "drift", "lens", "responses", "rigidity", "solenoid"]

Array = NDArray[Any]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
LIGHT = 299.792458  # MeV/c of a charge with a rigidity of 1 T m

# The first cryomodule of CAFe II: 40Ar12+ ions of 54.24 MeV, five cells (authors' code, ElivisC/TBSAC)
MASS, CHARGE, ENERGY = 37_218.6, 12, 54.24
CELL = (0.085, 0.350, 0.210)
"""m: drift, solenoid with two correctors on it, cavity; behind each cell a monitor"""
FIELDS = np.array([0.81, -0.81, -0.83, -0.89, -0.75])
"""of the solenoids, in parts of the largest"""


def rigidity(energy: float, mass: float, charge: int) -> float:
    """Momentum over charge in T m, of an ion with this kinetic energy and mass in MeV."""
    return float(np.sqrt(energy**2 + 2 * energy * mass) / (charge * LIGHT))


def drift(length: float) -> Array:
    """Transfer matrices act on (x, x', y, y') in mm and mrad; lengths are in m."""
    m = np.eye(4)
    m[0, 1] = m[2, 3] = length
    return m


def lens(strength: float | Array) -> Array:
    """A thin lens that is alike in both planes, of 1 / focal length in 1/m (...): (..., 4, 4)."""
    m = np.zeros((*np.shape(strength), 4, 4)) + np.eye(4)
    m[..., 1, 0] = m[..., 3, 2] = -np.asarray(strength)
    return m


def solenoid(k: float | Array, length: float) -> Array:
    """A solenoid with hard edges, of k = field / (2 rigidity) in 1/m (...): (..., 4, 4). Chao, "Handbook", 2.2.1."""
    k = np.asarray(k, np.float64)
    c, s, sinc = np.cos(k * length), np.sin(k * length), length * np.sinc(k * length / np.pi)
    plane = np.stack([np.stack([c, sinc], -1), np.stack([-k * s, c], -1)], -2)  # as it focuses where the axes turn with the beam
    cos, sin = c[..., None, None] * plane, s[..., None, None] * plane
    return np.concatenate([np.concatenate([cos, sin], -1), np.concatenate([-sin, cos], -1)], -2)


def responses(k: Array, kick: float = 2.0, defocus: float = 0.3) -> tuple[Array, Array]:
    """Of lines with solenoids k (n, cells): what the monitors read, in mm, x and y of each in turn (n, 2 cells, ...): per mm and
    mrad of the beam at the entry and per mm of each solenoid's offset, x and y in turn (4 + 2 cells); and per A of each
    corrector, horizontal and vertical in turn (2 cells), which kicks by `kick` mrad."""
    n, cells = k.shape
    z = np.zeros((n, 4, 4 + 4 * cells))  # of (x, x', y, y'), per entry, offset and current
    z[:, :, :4] = np.eye(4)
    cavity = drift(CELL[2] / 2) @ lens(-defocus) @ drift(CELL[2] / 2)
    read = []
    for i in range(cells):
        half = solenoid(k[:, i], CELL[1] / 2)
        z = half @ (drift(CELL[0]) @ z)
        z[:, [1, 3], 4 + 2 * cells + 2 * i + np.arange(2)] += kick  # x by the first, y by the second: in the middle
        z = half @ z
        z[:, :, 4 + 2 * i : 6 + 2 * i] += (np.eye(4) - half @ half)[:, :, [0, 2]]
        z = cavity @ z
        read.append(z[:, [0, 2]])
    both = np.concatenate(read, 1)
    return both[..., : 4 + 2 * cells], both[..., 4 + 2 * cells :]


class Lines:
    """n beam lines that are stepped at once (envs/rows.py). A subclass draws the `plants`, and has `measured` and `judged`."""

    sensors: int
    action_dim: int
    limit: int

    def __init__(self, n: int, history: str) -> None:
        if history not in ("trend", "readings"):
            raise Fault(f"history is {history!r}; allowed: trend, readings")
        self.trend, self.seeds, self.steps = history == "trend", np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.settings, self.rows = np.zeros((n, self.action_dim)), np.zeros((n, 3, self.sensors))
        self.told: dict[str, Array] = {}

    def plants(self, asked: Mask) -> None:
        """Draws them anew, and the settings that an episode begins with, for the rows that are asked."""
        raise NotImplementedError

    def measured(self, settings: Array, noise: Array) -> Array:
        """What is read (n, sensors) at settings (n, action_dim), with standard normal noise (n, sensors)."""
        raise NotImplementedError

    def moved(self, actions: Array) -> Array:
        """The settings that actions (n, action_dim) lead to."""
        raise NotImplementedError

    def judged(self, reading: Array, before: Array) -> tuple[Array, Mask]:
        """Rewards (n,), and who has arrived."""
        raise NotImplementedError

    def probe(self) -> Array:
        """The settings (n, action_dim) of an episode's second reading, the first that is seen."""
        raise NotImplementedError

    def noise(self, turn: int) -> Array:
        return normal(self.seeds, self.sensors, 1) if turn == 0 else normal(self.seeds + (self.steps << 32), self.sensors, 2)

    def reset(self, seeds: Sequence[int], asked: Mask) -> Floats:
        self.seeds = np.where(asked, np.asarray(seeds), self.seeds)
        self.steps[asked] = 0
        self.plants(asked)
        first = self.measured(self.settings, self.noise(0))
        settings = np.where(asked[:, None], self.probe(), self.settings)
        reading = self.measured(settings, self.noise(1))
        self.settings = settings
        self.rows[asked] = np.stack([np.zeros_like(reading), reading - first, reading], 1)[asked]
        return self.seen()

    def step(self, actions: Floats, asked: Mask) -> tuple[Floats, Floats, Mask, Mask]:
        self.steps += asked
        settings = np.where(asked[:, None], self.moved(np.clip(actions, -1, 1)), self.settings)
        reading = self.measured(settings, self.noise(1))
        reward, arrived = self.judged(reading, self.rows[:, 2])
        new = np.stack([self.rows[:, 1], reading - self.rows[:, 2], reading], 1)
        self.settings, self.rows = settings, np.where(asked[:, None, None], new, self.rows)
        return self.seen(), reward.astype(np.float32), arrived, np.zeros(len(reward), bool)

    def seen(self) -> Floats:
        return (self.rows.reshape(len(self.rows), -1) if self.trend else self.rows[:, 2]).astype(np.float32)

    def infos(self, rows: Sequence[int]) -> dict[int, dict[str, float]]:
        return {i: {k: float(v[i]) for k, v in self.told.items()} for i in rows}

    def close(self) -> None: ...


class Line(gym.Env[Floats, Floats]):
    """One of them as an environment; a subclass makes n in `batched`."""

    rows: Lines

    def batched(self, n: int) -> Lines:
        raise NotImplementedError

    def _spaces(self) -> None:
        self.rows = self.batched(1)
        self.observation_space = spaces.Box(-np.inf, np.inf, ((3 if self.rows.trend else 1) * self.rows.sensors,), np.float32)
        self.action_space = spaces.Box(-1, 1, (self.rows.action_dim,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        own = int(self.np_random.integers(2**31)) if seed is None else seed
        return self.rows.reset([own], np.ones(1, bool))[0], {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        obs, reward, over, _ = self.rows.step(np.asarray(action, np.float32)[None], np.ones(1, bool))
        return obs[0], float(reward[0]), bool(over[0]), False, self.rows.infos([0])[0]


class BeamOrbit(Line):
    """Ten correctors in five cells of a superconducting linac are to bring the beam to the middle of five monitors.

    Observation: 30 numbers in mm, three rows of ten: how the readings changed before last, how they changed last, and what they
    are. A row is x and y of each monitor in turn. With `history="readings"` the last row alone.
    Action: how far each corrector's current is to go, in A, in [-1, 1]: horizontal and vertical of each cell in turn. A current
    stays within 40 A.
    Reward: minus the RMS of the readings in mm, + 0.4 D, where D is the sum over the readings, over 100, of 1 for each that came
    nearer to zero and -4 for the others; when the RMS is under `target`, 50 more, and 3 for each step that is left.
    Ends: terminated when the RMS is under `target`; cut off after 50 steps.

    At each reset the solenoids' offsets (uniform, +-`misalignment` mm) and the beam at the entry (+-`misalignment` mm, and a
    fifth of it in mrad) are drawn from the seed. It is read once, then all currents are set to 0.3 A and it is read again: so the
    first observation shows what a known kick does. Readings have a normal error of `noise` mm.
    Perturbed plants, also drawn at each reset: `solenoid_error` and `gain_error` scale each solenoid's field and each
    corrector's kick by up to this part; of `flipped` correctors the polarity is wrong; with the chance `reversal` it is wrong for
    all. `kick` is mrad per A, `field` the largest in T, `defocus` 1 / focal length of a cavity in 1/m. Info: "rms_mm", "solved".
    Chen et al. 2023 (arXiv:2305.13869), whose reward, probe and first module these are; the line is linear, and of our own.
    """

    def __init__(
        self, misalignment: float = 3.0, noise: float = 0.02, target: float = 0.5, history: str = "trend",
        solenoid_error: float = 0.0, gain_error: float = 0.0, flipped: int = 0, reversal: float = 0.0,
        kick: float = 2.0, field: float = 4.5, defocus: float = 0.3,
    ) -> None:  # fmt: skip
        for name, value in {"misalignment": misalignment, "noise": noise, "target": target}.items():
            if not value >= 0:
                raise Fault(f"{name} is {value!r}; allowed: 0 mm or more")
        for name, value in {"solenoid_error": solenoid_error, "gain_error": gain_error, "reversal": reversal}.items():
            if not 0 <= value <= 1:
                raise Fault(f"{name} is {value!r}; allowed: 0 to 1")
        if not isinstance(flipped, int) or not 0 <= flipped <= 2 * len(FIELDS):
            raise Fault(f"flipped is {flipped!r}; allowed: a whole number of correctors, 0 to {2 * len(FIELDS)}")
        self.given: dict[str, Any] = {
            "misalignment": misalignment, "noise": noise, "target": target, "history": history, "kick": kick,
            "solenoid_error": solenoid_error, "gain_error": gain_error, "flipped": flipped, "reversal": reversal,
            "field": field, "defocus": defocus,
        }  # fmt: skip
        self._spaces()

    def batched(self, n: int) -> Orbits:
        """n of them as one object."""
        return Orbits(n, **self.given)


class Orbits(Lines):
    """n lines, each as in `BeamOrbit`. `base` is what they read without currents, `response` what they read per A."""

    sensors = action_dim = 2 * len(FIELDS)
    limit, current, first = 50, 40.0, 0.3
    """steps, and A: the largest current, and that of the probe"""

    def __init__(
        self, n: int, history: str, misalignment: float, noise: float, target: float, solenoid_error: float,
        gain_error: float, flipped: int, reversal: float, kick: float, field: float, defocus: float,
    ) -> None:  # fmt: skip
        super().__init__(n, history)
        self.misalignment, self.error, self.target = misalignment, noise, target
        self.solenoid_error, self.gain_error, self.flipped, self.reversal = solenoid_error, gain_error, flipped, reversal
        self.k, self.optics = field / (2 * rigidity(ENERGY, MASS, CHARGE)) * FIELDS, (kick, defocus)
        self.nominal = responses(self.k[None], *self.optics)
        self.base, self.response = np.zeros((n, self.sensors)), np.tile(self.nominal[1], (n, 1, 1))

    def plants(self, asked: Mask) -> None:
        rows, d = np.flatnonzero(asked), self.sensors
        sizes = [4 + d, d, d // 2, d, 1]
        away, gains, fields, wrong, every = np.split(uniform(self.seeds[rows], sum(sizes), 0), np.cumsum(sizes[:-1]), 1)
        size = self.misalignment * np.array([1, 0.2, 1, 0.2, *np.ones(d)])
        known, by_current = self.nominal
        if self.solenoid_error:
            known, by_current = responses(self.k * (1 + self.solenoid_error * (2 * fields - 1)), *self.optics)
        sign = np.where(wrong.argsort(1).argsort(1) < self.flipped, -1, 1) * np.where(every < self.reversal, -1, 1)
        self.base[rows] = (known @ (size * (2 * away - 1))[..., None])[..., 0]
        self.response[rows] = by_current * (sign * (1 + self.gain_error * (2 * gains - 1)))[:, None]
        self.settings[rows] = 0

    def measured(self, settings: Array, noise: Array) -> Array:
        return self.base + (self.response @ settings[..., None])[..., 0] + self.error * noise

    def moved(self, actions: Array) -> Array:
        return np.clip(self.settings + actions, -self.current, self.current)

    def probe(self) -> Array:
        return np.full_like(self.settings, self.first)

    def judged(self, reading: Array, before: Array) -> tuple[Array, Mask]:
        rms = np.sqrt(np.square(reading).mean(1))
        nearer = np.where(np.abs(reading) < np.abs(before), 1, -4).sum(1) / self.sensors**2
        solved = rms < self.target
        self.told = {"rms_mm": rms, "solved": solved}
        return -rms + 0.4 * nearer + solved * (50 + 3 * (self.limit - self.steps)), solved


class BeamTransmission(Line):
    """Two solenoids and four steerers are to bring a beam through the mouth of an RFQ: how much of it arrives?

    Observation: 21 numbers, three rows of seven: how they changed before last, how they changed last, and what they are: the
    transmission, 0 to 1, then the six settings. With `history="readings"` the last row alone.
    Action: how far each setting is to go, in tenths of its range, in [-1, 1]: a solenoid, its horizontal and vertical steerer,
    then the same of the second. Settings stay within [-1, 1].
    Reward: the transmission less 1; when it is above `target`, 10 more, and 1 for each step that is left.
    Ends: terminated when the transmission is above `target`; cut off after 40 steps, 3 s each: two minutes.

    At each reset the beam at the entry, the offsets of the solenoids (+-`misalignment` mm) and the settings to begin with are
    drawn from the seed. Transmission is read with an error of `noise`. `flipped` steerers have the wrong polarity. Info:
    "transmission", "solved". After the second task of Chen et al. 2023 (arXiv:2305.13869), whose line is not published: all
    numbers of this one are ours.
    """

    def __init__(
        self, misalignment: float = 2.0, noise: float = 0.01, target: float = 0.85, history: str = "trend", flipped: int = 0
    ) -> None:
        for name, value in {"misalignment": misalignment, "noise": noise}.items():
            if not value >= 0:
                raise Fault(f"{name} is {value!r}; allowed: 0 or more")
        if not 0 < target < 1:
            raise Fault(f"target is {target!r}; allowed: above 0 and below 1")
        if not isinstance(flipped, int) or not 0 <= flipped <= 4:
            raise Fault(f"flipped is {flipped!r}; allowed: a whole number of steerers, 0 to 4")
        self.given: dict[str, Any] = {
            "misalignment": misalignment,
            "noise": noise,
            "target": target,
            "history": history,
            "flipped": flipped,
        }
        self._spaces()

    def batched(self, n: int) -> Mouths:
        """n of them as one object."""
        return Mouths(n, **self.given)


class Mouths(Lines):
    """n lines before an RFQ, each as in `BeamTransmission`: a drift, and twice steerers, a solenoid and a drift."""

    sensors, action_dim, limit = 7, 6, 40
    lengths, magnet = (0.4, 0.5, 0.25), 0.3
    """m: of the drifts, and of a solenoid"""
    k, span, kick = np.array([4.0, 5.5]), 0.4, 20.0
    """a solenoid at setting 0, in 1/m; by what part of it a setting of 1 adds to it; mrad of a steerer at setting 1"""
    beam, mouth = np.array([4.0, 6.0, 4.0, 6.0]), 2.8
    """mm and mrad, standard deviations at the entry; and of the matched beam's, the RFQ's acceptance in each plane"""

    def __init__(self, n: int, history: str, misalignment: float, noise: float, target: float, flipped: int) -> None:
        super().__init__(n, history)
        self.misalignment, self.error, self.target, self.flipped = misalignment, noise, target, flipped
        self.sign, self.at, self.offset = np.ones((n, 4)), np.zeros((n, 4)), np.zeros((n, 2, 4))
        whole = self.carried(np.zeros((1, 6)), np.zeros((1, 4)), np.zeros((1, 2, 4)))[0][0]
        spread = (whole * self.beam**2) @ whole.T  # of the matched beam, which is round: both planes have the first one's
        self.shape = np.linalg.inv(np.linalg.cholesky(spread[:2, :2])) / self.mouth
        self.ions = (self.beam * _ions(128)).T

    def carried(self, settings: Array, at: Array, offset: Array) -> tuple[Array, Array]:
        """Transfer matrices (n, 4, 4) to the mouth, and where the beam's middle (n, 4) comes out."""
        m, z = np.broadcast_to(drift(self.lengths[0]), (len(at), 4, 4)), (drift(self.lengths[0]) @ at[..., None])[..., 0]
        for i in range(2):
            magnet = solenoid(self.k[i] * (1 + self.span * settings[:, 3 * i]), self.magnet)
            z[:, [1, 3]] += self.kick * settings[:, 3 * i + 1 : 3 * i + 3]
            z = (magnet @ (z - offset[:, i])[..., None])[..., 0] + offset[:, i]
            m, z = drift(self.lengths[i + 1]) @ magnet @ m, z @ drift(self.lengths[i + 1]).T
        return m, z

    def plants(self, asked: Mask) -> None:
        rows = np.flatnonzero(asked)
        u = 2 * uniform(self.seeds[rows], 18, 0) - 1
        self.at[rows] = u[:, :4] * [4, 6, 4, 6]
        self.offset[rows, :, ::2] = self.misalignment * u[:, 4:8].reshape(-1, 2, 2)
        self.sign[rows] = np.where(u[:, 8:12].argsort(1).argsort(1) < self.flipped, -1, 1)
        self.settings[rows] = 0.5 * u[:, 12:]

    def transmission(self, settings: Array) -> Array:
        """The part of the ions (n,) that lie within the acceptance in both planes, at settings (n, 6)."""
        real = settings.copy()
        real[:, [1, 2, 4, 5]] *= self.sign
        m, z = self.carried(real, self.at, self.offset)
        m, z = self.shape @ m.reshape(-1, 2, 2, 4), self.shape @ z.reshape(-1, 2, 2, 1)  # where the acceptance is a unit circle
        ends = (m.reshape(-1, 4).astype(np.float32) @ self.ions).reshape(len(settings), 2, 2, -1) + z.astype(np.float32)
        ends *= ends
        inside = (ends[:, 0, 0] + ends[:, 0, 1] < 1) & (ends[:, 1, 0] + ends[:, 1, 1] < 1)
        return np.asarray(np.count_nonzero(inside, 1) / inside.shape[1])

    def measured(self, settings: Array, noise: Array) -> Array:
        return np.concatenate([(self.transmission(settings) + self.error * noise[:, 0])[:, None], settings], 1)

    def moved(self, actions: Array) -> Array:
        return np.clip(self.settings + 0.1 * actions, -1, 1)

    def probe(self) -> Array:
        return self.moved(np.full_like(self.settings, 0.3))

    def judged(self, reading: Array, before: Array) -> tuple[Array, Mask]:
        solved = reading[:, 0] > self.target
        self.told = {"transmission": reading[:, 0], "solved": solved}
        return reading[:, 0] - 1 + solved * (10 + 1 * (self.limit - self.steps)), solved


def _ions(count: int) -> Floats:
    """Points (2 count, 4) that lie as evenly as they can for a normal distribution, with exactly its mean and covariance."""
    step = (1 / 1.1673039782614187 ** np.arange(1, 5)) % 1  # Roberts 2018: the generalised golden ratio of four dimensions
    u = (0.5 + np.arange(1, count + 1)[:, None] * step) % 1
    radius = np.sqrt(-2 * np.log(u[:, :2]))
    x = np.concatenate([radius * np.cos(2 * np.pi * u[:, 2:]), radius * np.sin(2 * np.pi * u[:, 2:])], 1)[:, [0, 2, 1, 3]]
    x = np.concatenate([x, -x])
    return np.asarray(x @ np.linalg.inv(np.linalg.cholesky(x.T @ x / len(x))).T, np.float32)
