"""Beam lines: against Cheetah's tracking, equations of motion and closed forms; an episode by a slow loop; what is perturbed."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from thespis.core import Fault
from thespis.worlds import beam
from thespis.worlds.beam import BeamOrbit, BeamTransmission, drift, lens, responses, rigidity, solenoid

ENTRY, OFFSET = np.array([1.0, -0.4, 2.0, 0.6]), np.array([1, -2, 0.5, 1.5, -3, 2, 1, 1, -1, 0.5])
CURRENT = np.array([3.0, -1, 2, 0, -4, 1, 0.5, 2, -2, 1])
CHEETAH = [
    1.817910993, -3.906855312, 2.805482293, -1.117301193, -9.520647615, -3.113061649, 2.663968195, -1.992157792, -16.824527428,
    7.119150509,
]  # fmt: skip
"""mm: what Cheetah 0.8.4 reads at the five monitors"""


def every(n: int) -> Any:
    return np.ones(n, bool)


def orbits(n: int, **args: Any) -> Any:
    made = BeamOrbit(**args).batched(n)
    made.reset(list(range(n)), every(n))
    return made


def mouths(n: int, **args: Any) -> Any:
    made = BeamTransmission(**args).batched(n)
    made.reset(list(range(n)), every(n))
    return made


# ------------------------------------------------------------------------------------------------------------ the optics


def test_readings_are_cheetahs() -> None:
    by_beam, by_current = responses(orbits(1).k[None])
    np.testing.assert_allclose(by_beam[0] @ [*ENTRY, *OFFSET] + by_current[0] @ CURRENT, CHEETAH, atol=1e-8)


def test_every_transfer_matrix_is_cheetahs() -> None:
    cheetah, torch = pytest.importorskip("cheetah"), pytest.importorskip("torch")
    real: Any = {"dtype": torch.float64}
    ion = cheetah.Species(
        "Ar12", num_elementary_charges=torch.tensor(12.0, **real), mass_eV=torch.tensor(beam.MASS * 1e6, **real)
    )
    energy = torch.tensor((beam.MASS + beam.ENERGY) * 1e6, **real)

    def of(element: Any) -> Any:
        return element.first_order_transfer_map(energy, ion).numpy()

    def number(x: float) -> Any:
        return torch.tensor(x, **real)

    np.testing.assert_allclose(drift(0.3), of(cheetah.Drift(length=number(0.3)))[:4, :4], atol=1e-12)
    thin = torch.eye(7, **real)
    thin[:4, :4] = torch.from_numpy(lens(-0.3))
    elements, k = [], orbits(1).k
    for i in range(5):
        offset = torch.from_numpy(OFFSET[2 * i : 2 * i + 2] * 1e-3)
        half = cheetah.Solenoid(length=number(0.175), k=number(k[i]), misalignment=offset)
        np.testing.assert_allclose(solenoid(k[i], 0.175), of(half)[:4, :4], atol=1e-5)
        horizontal = cheetah.HorizontalCorrector(length=number(0), angle=number(2e-3 * CURRENT[2 * i]))
        vertical = cheetah.VerticalCorrector(length=number(0), angle=number(2e-3 * CURRENT[2 * i + 1]))
        gap, cavity = cheetah.Drift(length=number(0.105)), cheetah.CustomTransferMap(thin, length=number(0))
        elements += [cheetah.Drift(length=number(0.085)), half, horizontal, vertical, half.clone(), gap, cavity, gap.clone()]
    whole, z, read = np.eye(7), np.array([*ENTRY * 1e-3, 0, 0, 1]), []
    for i, element in enumerate(elements):
        whole = of(element) @ whole
        read += [*(whole @ z)[[0, 2]] * 1e3] if i % 8 == 7 else []
    np.testing.assert_allclose(read, CHEETAH, atol=1e-8)


def test_a_solenoid_is_what_the_equations_of_motion_say() -> None:
    """x'' = 2 k y', y'' = -2 k x' inside, and the kicks x' += k y, y' -= k x of the edges, which leave with the other sign."""
    k, length, steps = 3.1, 0.35, 400
    inside = np.array([[0, 1, 0, 0], [0, 0, 0, 2 * k], [0, 0, 0, 1], [0, -2 * k, 0, 0]])
    edge, m, h = np.eye(4), np.eye(4), length / steps
    edge[1, 2], edge[3, 0] = k, -k
    for _ in range(steps):  # Runge and Kutta
        a = inside @ m
        b = inside @ (m + h / 2 * a)
        c = inside @ (m + h / 2 * b)
        m = m + h / 6 * (a + 2 * b + 2 * c + inside @ (m + h * c))
    np.testing.assert_allclose(np.linalg.inv(edge) @ m @ edge, solenoid(k, length), atol=1e-9)
    np.testing.assert_allclose(solenoid(0.0, length), drift(length), atol=1e-12)
    j = np.kron(np.eye(2), [[0, 1], [-1, 0]])
    for matrix in (solenoid(k, length), lens(-0.3), drift(0.2)):
        np.testing.assert_allclose(matrix.T @ j @ matrix, j, atol=1e-12)
    assert rigidity(54.24, 37_218.6, 12) == pytest.approx(0.5587, abs=1e-4)  # T m
    assert rigidity(1e6, 1.0, 1) == pytest.approx(1e6 / 299.792458, rel=1e-5)  # almost light


# ----------------------------------------------------------------------------------------------------------------- orbit


def test_an_episode_by_a_slow_loop() -> None:
    """Two rows, of which one pauses: readings, trend, reward and end as the docstring says, without noise."""
    made, rng = orbits(2, noise=0.0, target=1.5), np.random.default_rng(3)
    base, response = made.base.copy(), made.response
    current, steps = np.full((2, 10), 0.3), [0, 0]
    rows = [[np.zeros(10), response[i] @ current[i], base[i] + response[i] @ current[i]] for i in range(2)]
    np.testing.assert_allclose(made.seen().reshape(2, 3, 10), rows, atol=1e-5)
    ends = 0
    for t in range(45):
        asked = np.array([True, t % 3 > 0])
        action = np.clip(-made.rows[:, 2] @ np.linalg.pinv(response[0]).T + rng.normal(size=(2, 10)), -1.5, 1.5)
        seen, reward, over, cut = made.step(action.astype(np.float32), asked)
        assert not cut.any()
        for i in np.flatnonzero(asked):
            steps[i] += 1
            current[i] = np.clip(current[i] + np.clip(action[i].astype(np.float32), -1, 1), -40, 40)
            new = base[i] + response[i] @ current[i]
            bonus = sum(1 if abs(a) < abs(b) else -4 for a, b in zip(new, rows[i][2], strict=True)) / 10 / 10
            rms = np.sqrt(sum(x * x for x in new) / 10)
            wanted = -rms + 0.4 * bonus + (50 + 3 * (50 - steps[i]) if rms < 1.5 else 0)
            rows[i] = [rows[i][1], new - rows[i][2], new]
            assert reward[i] == pytest.approx(wanted, rel=1e-5)
            assert over[i] == (rms < 1.5)
            assert made.infos([i])[i] == {"rms_mm": pytest.approx(rms), "solved": over[i]}
            ends += over[i]
        np.testing.assert_allclose(seen.reshape(2, 3, 10), rows, atol=1e-4)
    assert 0 < ends < 70
    made.settings[:] = 39.9
    made.step(np.ones((2, 10), np.float32), every(2))
    assert (made.settings == 40).all()


def test_a_response_matrix_centres_the_beam_in_one_move_where_nothing_is_clipped() -> None:
    made = orbits(50, noise=0.0)
    made.settings -= np.linalg.solve(made.response, made.rows[:, 2, :, None])[..., 0]
    np.testing.assert_allclose(made.measured(made.settings, 0 * made.base), 0, atol=1e-9)
    assert (np.abs(made.settings) < 40).all()
    straight = orbits(3, noise=0.0, misalignment=0.0)
    np.testing.assert_array_equal(straight.base, 0)


def test_one_environment_is_a_row_of_many() -> None:
    for name, actions in (("BeamOrbit", 10), ("BeamTransmission", 6)):
        env, rng = gym.make(f"thespis/{name}-v0"), np.random.default_rng(0)
        many = env.unwrapped.batched(4)
        seen = many.reset([7, 5, 3, 1], every(4))
        np.testing.assert_allclose(seen[2], env.reset(seed=3)[0], atol=1e-6)
        for _ in range(5):
            action = rng.uniform(-1, 1, (4, actions)).astype(np.float32)
            seen, reward, *_ = many.step(action, every(4))
            one, earned, *_ = env.step(action[2])
            np.testing.assert_allclose(seen[2], one, atol=1e-5)
            assert earned == pytest.approx(reward[2], abs=1e-5)
        short = gym.make(f"thespis/{name}-v0", history="readings")
        np.testing.assert_allclose(
            short.reset(seed=3)[0], many.__class__(1, **env.unwrapped.given).reset([3], every(1))[0, -(len(one) // 3) :]
        )


def test_plants_are_drawn_anew_within_what_was_asked() -> None:
    n, plain = 4_000, orbits(1)
    made = orbits(n, gain_error=0.2, flipped=3, noise=0.05)
    known = plain.nominal[1][0]
    scale = (made.response * known).sum(1) / np.square(known).sum(0)
    assert ((scale < 0).sum(1) == 3).all()
    assert (np.abs(scale).min(), np.abs(scale).max()) == (pytest.approx(0.8, abs=1e-3), pytest.approx(1.2, abs=1e-3))
    wanted = np.sqrt(np.square(plain.nominal[0][0] * [1, 0.2, 1, 0.2, *np.ones(10)]).sum(1) * 3**2 / 3)  # uniform within 3 mm
    np.testing.assert_allclose(made.base.std(0), wanted, rtol=0.05)
    assert (made.measured(made.settings, made.noise(1)) - made.measured(made.settings, 0 * made.base)).std() == pytest.approx(
        0.05, rel=0.02
    )
    half = orbits(n, reversal=0.5)
    turned = (half.response == -plain.nominal[1]).all((1, 2))
    assert turned.mean() == pytest.approx(0.5, abs=0.04)
    assert (half.response[~turned] == plain.nominal[1]).all()
    weak = orbits(500, solenoid_error=0.05)
    k = plain.k * (1 + 0.05 * (2 * beam.uniform(weak.seeds, 40, 0)[:, 24:29] - 1))
    np.testing.assert_allclose(weak.response, responses(k)[1])
    again = orbits(n, gain_error=0.2, flipped=3, noise=0.05)
    np.testing.assert_array_equal(made.rows, again.rows)
    again.reset([9] * n, np.arange(n) < 2)
    np.testing.assert_array_equal(made.rows[2:], again.rows[2:])
    np.testing.assert_array_equal(made.rows[9], again.rows[1])


# ---------------------------------------------------------------------------------------------------------- transmission


def test_how_much_of_the_matched_beam_arrives_is_known() -> None:
    """In each plane a normal distribution within a circle of 2.8 standard deviations, the planes by themselves."""
    made = mouths(1, misalignment=0.0)
    made.at[:] = 0
    assert made.transmission(np.zeros((1, 6)))[0] == pytest.approx((1 - np.exp(-(2.8**2) / 2)) ** 2, abs=0.006)
    np.testing.assert_allclose(
        (made.ions.astype(float) @ made.ions.T) / made.ions.shape[1], np.diag(made.beam**2), rtol=1e-4, atol=1e-4
    )


def test_other_settings_against_many_ions_drawn_by_chance() -> None:
    made, rng = mouths(60), np.random.default_rng(0)
    settings = rng.uniform(-0.6, 0.6, (60, 6))
    found, slow = made.transmission(settings), np.zeros(60)
    spread = made.carried(np.zeros((1, 6)), np.zeros((1, 4)), np.zeros((1, 2, 4)))[0][0]
    size = np.linalg.inv((spread * made.beam**2 @ spread.T)[:2, :2])
    for i in range(60):
        z = rng.normal(size=(20_000, 4)) * made.beam + made.at[i]
        z = z @ drift(0.4).T
        for j, length in ((0, 0.5), (1, 0.25)):
            z[:, 1] += 20 * settings[i, 3 * j + 1]
            z[:, 3] += 20 * settings[i, 3 * j + 2]
            k = made.k[j] * (1 + 0.4 * settings[i, 3 * j])
            z = ((z - made.offset[i, j]) @ solenoid(k, 0.3).T + made.offset[i, j]) @ drift(length).T
        x, y = z[:, :2], z[:, 2:]
        slow[i] = (((x @ size * x).sum(1) < 2.8**2) & ((y @ size * y).sum(1) < 2.8**2)).mean()
    assert slow.std() > 0.15
    np.testing.assert_allclose(found, slow, atol=0.05)
    assert np.abs(found - slow).mean() < 0.012


def test_transmission_is_read_rewarded_and_steered() -> None:
    made = mouths(400, noise=0.0)
    read = made.transmission(made.settings)
    np.testing.assert_allclose(made.rows[:, 2], np.concatenate([read[:, None], made.settings], 1))
    assert 0.1 < read.mean() < 0.3
    aim = np.zeros((400, 6))  # the four steerers bring the middle of the beam to the middle of the mouth, in place and angle
    away = made.carried(aim, made.at, made.offset)[1]
    by = [made.carried(np.eye(6)[[j]], np.zeros((1, 4)), np.zeros((1, 2, 4)))[1][0] for j in (1, 2, 4, 5)]
    aim[:, [1, 2, 4, 5]] = -np.linalg.solve(np.stack(by, 1), away.T).T
    assert (made.transmission(np.clip(aim, -1, 1)) > 0.85).mean() > 0.97
    over = np.zeros(400, bool)
    for t in range(1, 41):
        action = np.clip((aim - made.settings) / 0.1, -1, 1)
        before = made.settings.copy()
        _, reward, now, _ = made.step(action.astype(np.float32), ~over)
        np.testing.assert_allclose(made.settings[~over], np.clip(before + 0.1 * action, -1, 1)[~over], atol=1e-7)
        value = made.rows[:, 2, 0] - 1
        np.testing.assert_allclose(reward[~over], np.where(value > -0.15, value + 10 + 40 - t, value)[~over], rtol=1e-5)
        over |= now
    assert over.mean() > 0.97
    wrong = mouths(400, noise=0.0, flipped=2)
    assert ((wrong.sign < 0).sum(1) == 2).all()


@pytest.mark.parametrize(
    ("world", "args", "said"),
    [
        (BeamOrbit, {"history": "all"}, "history is 'all'; allowed: trend, readings"),
        (BeamOrbit, {"flipped": 11}, "flipped is 11; allowed: a whole number of correctors, 0 to 10"),
        (BeamOrbit, {"noise": -1}, "noise is -1; allowed: 0 mm or more"),
        (BeamOrbit, {"reversal": 2}, "reversal is 2; allowed: 0 to 1"),
        (BeamTransmission, {"target": 1.5}, "target is 1.5; allowed: above 0 and below 1"),
        (BeamTransmission, {"flipped": 0.5}, "flipped is 0.5; allowed: a whole number of steerers, 0 to 4"),
        (BeamTransmission, {"misalignment": -2}, "misalignment is -2; allowed: 0 or more"),
    ],
)
def test_arguments_out_of_range(world: Any, args: dict[str, Any], said: str) -> None:
    with pytest.raises(Fault, match=said):
        world(**args)
