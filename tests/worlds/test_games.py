"""Games of two agents against their rules written out a second time, and their solution against what is known of it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from thespis import envs
from thespis.worlds.games import Game, Gems, MarkovGame, equilibrium, worth


class Once(Game):
    """One state, and a table of rewards for each agent."""

    def __init__(self, gain: np.ndarray, horizon: int = 1) -> None:
        super().__init__(gain[:, None], np.ones(1), np.zeros((2, 1, 1), np.int64), [2], horizon)

    def ahead(self, value: np.ndarray) -> np.ndarray:
        return np.broadcast_to(value[..., None, None], (*value.shape, *self.gain.shape[2:]))

    def follow(self, state: np.ndarray, action: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return state


@pytest.mark.parametrize("name", ["MarkovGame", "Gems"])
def test_a_world_of_two_agents_with_a_reward_each(name: str) -> None:
    world = envs.world(f"thespis/{name}-v0", {"horizon": 7})
    assert (world.spec.agents, world.spec.rewards, world.spec.horizon) == (2, ("agent_0", "agent_1"), 7)
    flat = world.make()
    obs, _ = flat.reset(seed=0)
    for step in range(7):
        obs, reward, terminated, truncated, _ = flat.step(np.array([step % 3, 1]))
        assert np.shape(reward) == (2,)
        assert (terminated, truncated) == (False, step == 6)
    one, two = obs.reshape(2, -1)
    assert (one[-1], two[-1]) == (1, 1)
    assert (one == two).all() == (name == "MarkovGame")


def test_a_markov_game_is_its_tables() -> None:
    game = MarkovGame(states=5, actions=2, branches=3, horizon=4, draw=3)
    np.testing.assert_allclose(game.chance.sum(-1), 1)
    assert ((game.chance > 0).sum(-1) == 3).all()
    value = np.arange(5.0) ** 2
    for s, a, b in np.ndindex(5, 2, 2):
        assert game.ahead(value)[s, a, b] == pytest.approx(sum(game.chance[s, a, b, n] * n**2 for n in range(5)))
    rng, at = np.random.default_rng(0), np.tile([[1, 0]], (20_000, 1))
    after = np.bincount(game.follow(np.full(20_000, 2), at, rng), minlength=5) / 20_000
    np.testing.assert_allclose(after, game.chance[2, 1, 0], atol=0.015)


def test_gems_by_their_rules_written_as_a_person_would() -> None:
    env = gym.make("thespis/Gems-v0", size=3, again=0.0, horizon=30, draw=5).unwrapped
    assert isinstance(env, Gems)
    rng, shared = np.random.default_rng(0), 0
    for seed in range(30):
        obs, _ = env.reset(seed=seed)
        at, there = [divmod(int(obs[0]), 3), divmod(int(obs[1]), 3)], [True] * 3
        for _ in range(30):
            action = rng.integers(5, size=2)
            for i in range(2):
                dy, dx = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)][action[i]]
                at[i] = (min(max(at[i][0] + dy, 0), 2), min(max(at[i][1] + dx, 0), 2))
            wanted = [0.0, 0.0]
            for colour in range(3):
                here = [i for i in range(2) if there[colour] and at[i] == divmod(int(env.lie[colour]), 3)]
                for i in here:
                    wanted[i] += env.values[i, colour] / len(here)
                    there[colour] = False
                shared += len(here) == 2
            obs, reward, *_ = env.step(action)
            np.testing.assert_allclose(reward, wanted)
            cells = [3 * y + x for y, x in at]
            assert obs.tolist() == [*cells, *there, 0, *cells[::-1], *there, 0]
    assert shared > 0


def test_gems_come_back_by_chance_and_the_mean_over_what_follows_is_that_of_many() -> None:
    game = Gems(size=3, values=(1.0, -1.0), again=0.3, draw=1)
    rng = np.random.default_rng(0)
    value = rng.normal(size=len(game.first))
    for state in rng.integers(len(game.first), size=5):
        after = game.follow(np.full(40_000, state), np.tile([[2, 4]], (40_000, 1)), rng)
        assert value[after].mean() == pytest.approx(game.ahead(value)[state, 2, 4], abs=0.03)


@pytest.mark.parametrize("game", [MarkovGame(horizon=9, draw=2), Gems(size=3, horizon=9, draw=2)], ids=["random", "gems"])
def test_what_policies_are_worth_is_what_they_earn(game: Game) -> None:
    pi = np.random.default_rng(0).dirichlet(np.ones(game.gain.shape[-1]), (2, len(game.first)))
    earned = game.play(pi, 20_000, np.random.default_rng(1)).rewards.sum(1)
    np.testing.assert_allclose(worth(game, pi), earned.mean(0), atol=4 * earned.std(0).max() / 20_000**0.5)


def test_what_experts_did_is_drawn_by_its_seed_and_earned_by_the_rules() -> None:
    game, pair = MarkovGame(horizon=6, demos=3, demo_seed=7), np.arange(2)
    data = game.recorded()
    assert all(
        np.array_equal(data[k], v) for k, v in MarkovGame(horizon=6, demos=3, demo_seed=7).recorded().items() if k != "env"
    )
    assert not np.array_equal(data["actions"], MarkovGame(horizon=6, demos=3).recorded()["actions"])
    assert np.flatnonzero(data["timeouts"]).tolist() == [5, 11, 17]
    for t in range(18):
        (s, *_), a = data["observations"][t], data["actions"][t]
        np.testing.assert_array_equal(data["rewards"][t], game.gain[pair, s, a[0], a[1]])
        assert game.chance[(s, *a)][data["next_observations"][t][0]] > 0
    np.testing.assert_array_equal(data["next_observations"][:5], data["observations"][1:6])


# ---------------------------------------------------------------------------------------------------- their solution


def test_an_equilibrium_answers_itself_state_by_state() -> None:
    game = MarkovGame(states=4, actions=2, branches=2, draw=1)
    found = equilibrium(game, gamma=0.8, temperature=0.5)
    v = [[0.5 * np.log(sum(np.exp(q / 0.5) for q in found.values[i, s])) for s in range(4)] for i in range(2)]
    for i, s, mine in np.ndindex(2, 4, 2):
        total = 0.0
        for other in range(2):
            pair = (mine, other) if i == 0 else (other, mine)
            ahead = sum(game.chance[(s, *pair)][n] * v[i][n] for n in range(4))
            total += found.policies[1 - i, s, other] * (game.gain[(i, s, *pair)] + 0.8 * ahead)
        assert found.values[i, s, mine] == pytest.approx(total, abs=1e-6)
        assert found.policies[i, s, mine] == pytest.approx(np.exp((found.values[i, s, mine] - v[i][s]) / 0.5))


def test_matching_pennies_are_matched_by_chance_and_a_dilemma_is_not_solved() -> None:
    pennies = np.array([[[1.0, -1], [-1, 1]], [[-1, 1], [1, -1]]])
    np.testing.assert_allclose(equilibrium(Once(pennies), 0.0, 0.3).policies, 0.5, atol=1e-6)
    dilemma = np.array([[[3.0, 0], [5, 1]], [[3, 5], [0, 1]]])
    assert equilibrium(Once(dilemma), 0.0, 0.1).policies[:, 0, 1].min() > 0.999


def test_an_agent_whom_the_other_does_not_concern_iterates_soft_values() -> None:
    game = MarkovGame(states=6, actions=3, draw=4)
    game.chance, game.gain = game.chance[:, :, :1].repeat(3, 2), game.gain[..., :1].repeat(3, -1)
    found, v = equilibrium(game, 0.9, 0.4), np.zeros(6)
    for _ in range(400):
        q = game.gain[0, :, :, 0] + 0.9 * game.chance[:, :, 0] @ v
        v = 0.4 * np.log(np.exp(q / 0.4).sum(-1))
    np.testing.assert_allclose(found.values[0], q, atol=1e-6)


def test_who_chase_one_another_for_ever_are_told_of() -> None:
    with pytest.raises(ValueError, match="do not settle in 3 rounds"):
        equilibrium(MarkovGame(), 0.9, 0.5, rounds=3)
