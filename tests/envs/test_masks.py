"""Action masks, from both their places, down to the learner's row."""

import dataclasses
import types
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces as gs

from thespis import core, envs
from thespis.algorithms import algorithm, check_actions, tell_images, tell_mask
from thespis.core import Fault
from thespis.envs import masks
from thespis.policy import _normalising

TREE = gs.Dict(
    {"gear": gs.Discrete(3), "push": gs.Box(0, 1, (2,)), "row": gs.Tuple([gs.MultiDiscrete([2, 2]), gs.MultiBinary(1)])}
)


@pytest.mark.parametrize(
    ("space", "given", "row"),
    [
        (gs.Discrete(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
        (gs.Discrete(3), [True, False, True], [1, 0, 1]),
        (gs.Discrete(3), None, [1, 1, 1]),
        (gs.MultiDiscrete([2, 3]), np.array([1, 0, 0, 1, 1]), [1, 0, 0, 1, 1]),  # one after the other
        (gs.MultiDiscrete([2, 3]), (np.array([1, 0]), np.array([0, 1, 1])), [1, 0, 0, 1, 1]),  # as gymnasium's sample has it
        (gs.MultiDiscrete([[2], [3]]), (([1, 0],), ([0, 1, 1],)), [1, 0, 0, 1, 1]),
        (gs.MultiBinary(2), np.array([0, 2]), [1, 0, 1, 1]),  # gymnasium's: forced to 0, free
        (gs.MultiBinary(2), np.array([1, 0, 1, 1]), [1, 0, 1, 1]),
        (gs.Box(0, 1, (2,)), None, []),
        (TREE, {"gear": np.array([0, 1, 1])}, [0, 1, 1, 1, 1, 1, 1, 1, 1]),
        (TREE, {"row": ((np.array([1, 0]), [0, 1]), None), "push": None}, [1, 1, 1, 1, 0, 0, 1, 1, 1]),
        (TREE, np.array([0, 1, 1, 1, 0, 0, 1, 1, 0]), [0, 1, 1, 1, 0, 0, 1, 1, 0]),
    ],
)
def test_every_form_is_one_row(space, given, row):
    made = masks.of(space, given)
    assert made.dtype == np.int8
    assert made.tolist() == row


@pytest.mark.parametrize(
    ("space", "given", "text"),
    [
        (gs.Discrete(3), [1, 0], "mask is [1, 0]; it must be 0 or 1 for each choice: 3 numbers"),
        (gs.Discrete(2), [1, 3], "mask is [1, 3]; it must be 0 or 1 for each choice: 2 numbers"),
        (gs.Discrete(2), [1, np.nan], "mask is [1, nan]; it must be 0 or 1 for each choice: 2 numbers"),
        (gs.Discrete(2), "no", "mask is 'no'; it must be numbers, one for each choice: 2"),
        (TREE, {"gears": [1, 1, 1]}, "mask has the part 'gears'; the action space has ['gear', 'push', 'row']"),
        (TREE, {"gear": [1, 1]}, "mask['gear'] is [1, 1]; it must be 0 or 1 for each choice: 3 numbers"),
        (TREE, {"row": (None,)}, "mask['row'] has 1 parts; the action space has 2"),
    ],
)
def test_what_is_no_mask_is_named(space, given, text):
    with pytest.raises(Fault) as fault:
        masks.of(space, given, "mask")
    assert str(fault.value) == text


class Few(gym.Env):
    """Gives the masks of a list, one after the other; steps as many."""

    observation_space = gs.Box(-1, 1, (1,))

    def __init__(self, *given, action_space=None, last=False):
        self.action_space = gs.Discrete(3) if action_space is None else action_space
        self.given, self.last = given, last

    def said(self):
        mask = self.given[min(self.t, len(self.given) - 1)]
        return {} if mask is None else {"action_mask": np.array(mask, np.int8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), self.said()

    def step(self, action):
        self.t += 1
        return np.zeros(1, np.float32), 0.0, False, self.t >= len(self.given) - 1, self.said()


def test_a_mask_in_info_is_part_of_what_is_observed():
    world = envs.world(lambda: Few([1, 0, 1], [0, 1, 1], [0, 0, 0]))
    assert world.spec == core.Spec(core.Box(4), core.Discrete(3), mask=3)
    env = world.make()
    assert env.reset(seed=1)[0].tolist() == [0, 1, 0, 1]
    assert env.step(0)[0].tolist() == [0, 0, 1, 1]
    assert env.step(0)[0].tolist() == [0, 1, 1, 1], "at the end of an episode nothing is chosen, so all is free"


def test_a_vectors_environment_is_not_reset_to_look_for_masks():
    class Forbidding(Few):
        def reset(self, **given):
            raise AssertionError("no reset is needed")

    assert envs.world(lambda: Forbidding([1], action_space=gs.Box(-1, 1, (2,)))).spec.mask == 0


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ([[1, 1, 1], None, None, None], "info has no action_mask, as it had at the first reset"),
        ([[1, 1, 1], [0, 0, 0], [1, 1, 1]], "allows nothing of a choice"),
        (
            [[1, 1, 1], [1, 1], [1, 1, 1]],
            "info['action_mask'] is array([1, 1], dtype=int8); it must be 0 or 1 for each choice: 3 numbers",
        ),
    ],
)
def test_a_mask_that_goes_missing_or_allows_nothing_is_a_fault(given, text):
    env = envs.world(lambda: Few(*given)).make()
    env.reset(seed=0)
    with pytest.raises(Fault) as fault:
        env.step(0)
    assert text in str(fault.value)


def test_a_mask_that_only_steps_have_is_told_of_once():
    world = envs.world(lambda: Few(None, [1, 0, 0], [1, 0, 0], [1, 0, 0]))
    assert world.spec.mask == 0
    env = world.make()
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="an action_mask after a step but not after reset, so it is not heeded"):
        env.step(0)
    with warnings.catch_warnings(action="error"):
        env.step(0)


def test_an_algorithm_that_does_not_heed_a_mask_says_so_in_one_line(capsys):
    world, algo = envs.world(lambda: Few([1, 0, 1])), algorithm("sac_discrete")
    tell_mask(algo, world)
    assert capsys.readouterr().err == ""
    deaf = dataclasses.replace(algo, name="deaf", family="own", file=algo.file)
    vars(deaf)["module"] = types.SimpleNamespace()
    tell_mask(deaf, world)
    assert capsys.readouterr().err == "deaf does not heed the action mask of Few: it will take forbidden actions\n"


def test_sac_says_which_bound_is_missing_and_how_to_give_it():
    space = gs.Box(np.array([-1, -1], np.float32), np.array([1, np.inf], np.float32))
    world = envs.world(lambda: Few(None, action_space=space))
    with pytest.raises(Fault) as fault:
        check_actions(algorithm("sac"), world)
    said = str(fault.value)
    assert said.startswith("sac: action_space.high[1] is inf, and every action needs two finite bounds: give the environment's")
    assert "gymnasium.wrappers.TransformAction(env, lambda a: a, gymnasium.spaces.Box(-1, 1, (2,)))" in said
    assert "\n" not in said
    check_actions(algorithm("ppo"), world)


def test_what_normalises_under_a_mask_is_found_and_the_mask_stays_as_it_is():
    env = envs.world(lambda: gym.wrappers.NormalizeObservation(Few([1, 0, 1]))).make()
    env.reset(seed=0)
    found = env.gathered()
    assert found["0.epsilon"] == pytest.approx(1e-8)
    found |= {"0.mean": np.array([2.0]), "0.var": np.array([4.0])}
    seen = []
    learner = core.Learner(*[None] * 3, lambda p, obs, *rest: seen.append(obs), {}, None)
    _normalising(learner, found, 1, Path("file")).act(None, torch.tensor([[6.0, 1, 0, 1]]), False)
    assert seen[0][0].tolist() == pytest.approx([2, 1, 0, 1])


def test_an_algorithm_without_convolutions_says_what_to_take_for_images(capsys):
    world = envs.world("thespis/PixelPendulum-v0")
    tell_images(algorithm("drq_v2"), world, {})
    tell_images(algorithm("sac"), world, {"actor": object(), "critic": object()})
    tell_images(algorithm("sac"), envs.world("Pendulum-v1"), {})
    assert capsys.readouterr().err == ""
    tell_images(algorithm("sac"), world, {})
    told = "sac sees the images of thespis/PixelPendulum-v0 as one long vector, and learns little from it: take drq_v2 with --"
    assert capsys.readouterr().err.startswith(told)
