"""Games of two agents with few states: what agents do that know each other can be computed."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

__all__ = ["Equilibrium", "Game", "Gems", "MarkovGame", "Played", "equilibrium", "worth"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Played(NamedTuple):
    """n episodes of T steps."""

    observations: Ints
    """(n, T + 1, numbers)"""
    actions: Ints
    """(n, T, 2)"""
    rewards: Floats
    """(n, T, 2)"""


class Game(gym.Env[Ints, Ints]):
    """Two agents that both see the state and act at once, each for a reward of its own. After `horizon` steps an episode is cut
    off.

    `gain` (2, S, A, A) is what each agent earns in a state by the actions of the first and of the second; `first` (S,) the
    chances of the first state; `rows` (2, S, k) what each agent observes, k numbers of which number i is a choice below sizes[i].
    Behind them stands a choice of one, which the learner sees as a 1: the agent is there, as envs/agents.py has it.
    """

    gamma, temperature = 0.9, 0.5
    """of the experts, who play the equilibrium"""

    def __init__(
        self, gain: Floats, first: Floats, rows: Ints, sizes: list[int], horizon: int, demos: int = 100, demo_seed: int = 0
    ) -> None:
        self.demos, self.demo_seed = demos, demo_seed
        rows = np.pad(rows, ((0, 0), (0, 0), (0, 1)))
        self.gain, self.first, self.rows = gain, first, rows.swapaxes(0, 1).reshape(len(first), -1)
        self._max_episode_steps = horizon
        self.observation_space = spaces.MultiDiscrete([*sizes, 1] * 2)
        self.action_space = spaces.MultiDiscrete([gain.shape[-1]] * 2)
        self.reward_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.metadata = {"render_modes": [], "reward_names": ["agent_0", "agent_1"], "agents": 2}

    @abstractmethod
    def ahead(self, value: Floats) -> Floats:
        """Of values of states (..., S) the mean over the next one, by state and both actions: (..., S, A, A)."""

    @abstractmethod
    def follow(self, state: Ints, action: Ints, rng: np.random.Generator) -> Ints:
        """The next states (n,) after states (n,) and actions (n, 2)."""

    def play(self, policies: Floats, episodes: int, rng: np.random.Generator) -> Played:
        """Episodes in which both agents act by `policies` (2, S, A), the chances of each action."""
        state = rng.choice(len(self.first), episodes, p=self.first)
        below, agent, states, actions = policies.cumsum(-1), np.arange(2), [state], []
        for _ in range(self._max_episode_steps):
            at = below[:, state].swapaxes(0, 1)
            action = (at < rng.random((episodes, 2, 1)) * at[..., -1:]).sum(-1)
            actions.append(action)
            states.append(state := self.follow(state, action, rng))
        path, done = np.stack(states, 1), np.stack(actions, 1)
        earned = self.gain[agent, path[:, :-1, None], done[..., :1], done[..., 1:]]
        return Played(self.rows[path], done, earned)

    def recorded(self) -> dict[str, Any]:
        """`demos` episodes of experts, drawn by `demo_seed`, as columns of a dataset."""
        experts = equilibrium(self).policies
        seen, actions, rewards = self.play(experts, self.demos, np.random.default_rng(self.demo_seed))
        last = np.arange(self._max_episode_steps) == self._max_episode_steps - 1
        return {
            "observations": seen[:, :-1].reshape(-1, seen.shape[-1]), "actions": actions.reshape(-1, 2),
            "rewards": rewards.reshape(-1, 2), "terminals": np.zeros(rewards.shape[0] * rewards.shape[1]),
            "timeouts": np.tile(last, self.demos), "next_observations": seen[:, 1:].reshape(-1, seen.shape[-1]),
            "observation_space": self.observation_space, "action_space": self.action_space,
        }  # fmt: skip

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Ints, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.choice(len(self.first), 1, p=self.first)
        self.steps = 0
        return self.rows[self.state[0]].copy(), {}

    def step(self, action: Ints) -> tuple[Ints, Any, bool, bool, dict[str, Any]]:
        reward = self.gain[:, self.state[0], action[0], action[1]]
        self.state = self.follow(self.state, np.asarray(action)[None], self.np_random)
        self.steps += 1
        return self.rows[self.state[0]].copy(), reward.copy(), False, self.steps >= self._max_episode_steps, {}


class MarkovGame(Game):
    """A game drawn at random, by `draw`.

    Observation: the state, one of `states`, for each agent the same.
    Action: one of `actions` for each agent. Each pair of them leads to one of `branches` states, whose chances are drawn from a
    flat Dirichlet distribution.
    Reward: for each agent a number from -1 to 1, drawn for each state and pair of actions.
    Ends: never; cut off after `horizon` steps.
    """

    def __init__(
        self, states: int = 20, actions: int = 3, branches: int = 4, horizon: int = 50, draw: int = 0, demos: int = 100,
        demo_seed: int = 0,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(draw)
        self.chance = np.zeros((states, actions, actions, states))
        for at in np.ndindex(states, actions, actions):
            self.chance[at][rng.choice(states, branches, replace=False)] = rng.dirichlet(np.ones(branches))
        self._below = self.chance.cumsum(-1)
        gain, rows = rng.uniform(-1, 1, (2, states, actions, actions)), np.tile(np.arange(states)[:, None], (2, 1, 1))
        super().__init__(gain, np.full(states, 1 / states), rows, [states], horizon, demos, demo_seed)

    def ahead(self, value: Floats) -> Floats:
        return np.einsum("sabn,...n->...sab", self.chance, value)

    def follow(self, state: Ints, action: Ints, rng: np.random.Generator) -> Ints:
        below = self._below[state, action[:, 0], action[:, 1]]
        return (below <= rng.random((len(state), 1)) * below[:, -1:]).sum(-1)


class Gems(Game):
    """Gems of several colours lie on a square, and each agent has its own mind of what a colour is worth.

    Observation: for each agent its place and the other's, in 0 .. size^2 - 1, and for each colour whether its gem is there.
    Action: for each agent 0 stays, 1 goes up, 2 down, 3 left, 4 right; at the edge it stays.
    Reward: for each agent its own value of the gems where it then is; if both are there each has half. Such a gem is gone.
    With the chance `again`, a gem that is not there comes back to its place after a step.
    Ends: never; cut off after `horizon` steps.

    A gem of each colour; the places of all, and each agent's order of the `values`, are drawn by `draw`. After the mixed-motive
    domain of Haynam et al. 2025 (arXiv:2503.04679), whose rules are not known here: this one is ours.
    """

    temperature = 0.1

    def __init__(
        self, size: int = 5, values: tuple[float, ...] = (1.0, 0.5, -0.5), again: float = 0.2, horizon: int = 50, draw: int = 0,
        demos: int = 100, demo_seed: int = 0,
    ) -> None:  # fmt: skip
        rng = np.random.default_rng(draw)
        cells, colours = size * size, len(values)
        self.again, self.colours, self.actions = again, colours, 5
        self.lie = rng.choice(cells, colours, replace=False)
        self.values = np.stack([rng.permutation(values) for _ in range(2)])
        """of each agent and colour"""
        y, x = np.divmod(np.arange(cells), size)
        moves = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]
        goes = np.stack([(y + dy).clip(0, size - 1) * size + (x + dx).clip(0, size - 1) for dy, dx in moves], -1)
        bits = 2**colours
        place, there = np.divmod(np.arange(cells * cells * bits), bits)
        one, two = np.divmod(place, cells)
        lies = (there[:, None] >> np.arange(colours)) & 1  # (S, colours)
        to = np.stack(np.broadcast_arrays(goes[one][:, :, None], goes[two][:, None, :]))  # (2, S, A, A)
        on = (to[..., None] == self.lie) & (lies[:, None, None] == 1)  # (2, S, A, A, colours)
        self.taken = on / np.maximum(on.sum(0), 1)
        """(2, S, A, A, colours), what of each gem an agent gets"""
        left = (lies[:, None, None] * ~on.any(0) << np.arange(colours)).sum(-1)
        self.after = (to[0] * cells + to[1]) * bits + left  # before gems come back
        gain = np.einsum("isabc,ic->isab", self.taken, self.values)
        rows = np.stack([np.column_stack([one, two, lies]), np.column_stack([two, one, lies])])
        first = np.where(there == bits - 1, 1.0, 0.0)
        super().__init__(gain, first / first.sum(), rows, [cells, cells, *[2] * colours], horizon, demos, demo_seed)

    def ahead(self, value: Floats) -> Floats:
        v = value.reshape(*value.shape[:-1], -1, *[2] * self.colours)
        for axis in range(-self.colours, 0):
            gone, there = np.split(v, 2, axis)
            v = np.concatenate([(1 - self.again) * gone + self.again * there, there], axis)
        return v.reshape(value.shape)[..., self.after]

    def follow(self, state: Ints, action: Ints, rng: np.random.Generator) -> Ints:
        back = (rng.random((len(state), self.colours)) < self.again) << np.arange(self.colours)
        return self.after[state, action[:, 0], action[:, 1]] | back.sum(-1)


# ------------------------------------------------------------------------------------------------------ what is computed


class Equilibrium(NamedTuple):
    policies: Floats
    """(2, S, A), the chances of each agent's actions"""
    values: Floats
    """(2, S, A), what an action is worth to an agent in the mean over the other's: the marginal critic"""
    error: float
    """how much the values would change in one more round"""


def equilibrium(
    game: Game, gamma: float | None = None, temperature: float | None = None, rounds: int = 5_000, error: float = 1e-8
) -> Equilibrium:
    """Policies that are each a soft best response to the other: pi_i is proportional to exp(q_i / temperature), where q_i is the
    reward and the discounted soft value of what follows, in the mean over what the other does. By rounds of soft value
    iteration, until nothing changes by more than `error`; gamma and temperature are the game's own unless given. ValueError: it
    does not settle in so many rounds."""
    gamma, temperature = game.gamma if gamma is None else gamma, temperature or game.temperature
    q, rate, last = np.zeros(game.gain.shape[:3]), 1.0, np.inf
    for _ in range(rounds):
        pi = _softmax(q / temperature)
        new = _marginal(game.gain + gamma * game.ahead(_soft(q, temperature)), pi)
        change = float(np.abs(new - q).max())
        if change >= last:  # they chase one another: smaller steps
            rate = max(0.7 * rate, 0.1)
        q, last = q + rate * (new - q), change
        if change <= error:
            return Equilibrium(_softmax(q / temperature), q, change)
    raise ValueError(
        f"the policies do not settle in {rounds} rounds (the last changed values by {change:.2g}); raise temperature"
    )


def worth(game: Game, policies: Floats) -> Floats:
    """What each agent earns in an episode, in the mean: (2,), exactly."""
    value, pair = np.zeros(game.gain.shape[:2]), policies[0][:, :, None] * policies[1][:, None, :]
    for _ in range(game._max_episode_steps):
        value = (pair * (game.gain + game.ahead(value))).sum((-2, -1))
    return value @ game.first


def _marginal(joint: Floats, pi: Floats) -> Floats:  # (2, S, A, A) -> (2, S, A), each over the other's policy
    return np.stack([(joint[0] * pi[1][:, None, :]).sum(-1), (joint[1] * pi[0][:, :, None]).sum(-2)])


def _soft(q: Floats, temperature: float) -> Floats:
    top = q.max(-1, keepdims=True)
    return top[..., 0] + temperature * np.log(np.exp((q - top) / temperature).sum(-1))


def _softmax(x: Floats) -> Floats:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)
