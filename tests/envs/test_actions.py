"""Actions of every kind of space, from a learner's row and back."""

import math

import numpy as np
import pytest
from gymnasium import spaces as gs

from thespis import core
from thespis.core import Fault
from thespis.envs import actions, spaces

F32 = np.float32
NESTED = gs.Dict({"b": gs.Tuple([gs.Discrete(3, start=1), gs.MultiBinary(2)]), "a": gs.Box(-1, 1, (2,))})
TREE = gs.Dict({
    "gear": gs.Discrete(3, start=5), "more": gs.Tuple([gs.Box(0, 10, (1, 2), np.float64), gs.MultiBinary((1, 2))]),
    "none": gs.Tuple([]), "throttle": gs.Box(-1, 1, ()),
    "where": gs.Dict({"row": gs.MultiDiscrete([2, 4], start=[0, -1], dtype=np.int32), "whole": gs.Box(0, 8, (1,), np.uint8)}),
})  # fmt: skip
"""its vector: more[0] (2), throttle, where.whole; its choices: gear, more[1] (2), where.row (2)"""


def told(call, *args):
    with pytest.raises(Fault) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -------------------------------------------------------------------------------------------------------------- actions


@pytest.mark.parametrize(
    ("space", "action", "scaled"),
    [
        (gs.Box(-2, 2, (1,)), [0.5], [1.0]),
        (gs.Box(np.array([0, -1], F32), np.array([10, 3], F32)), [-1, 1], [0, 3]),
        (gs.Box(np.array([0, -1], F32), np.array([10, 3], F32)), [0, 0.5], [5, 2]),
        (gs.Box(-1, 1, (2,)), [7, -7], [1, -1]),  # beyond [-1, 1] is clipped
        (gs.Box(-4, 4, (2, 2), np.float64), [-1, 0, 0.25, 1], [[-4, 0], [1, 4]]),
        (gs.Box(0, 255, (3,), np.uint8), [-1, 0, 1], [0, 128, 255]),  # 127.5 rounds to even
        (gs.Box(-1, 1, ()), [0.5], 0.5),
    ],
)
def test_scale_action(space, action, scaled):
    x = actions.scale_action(space, np.array(action, F32))
    assert x.dtype == space.dtype
    assert x.shape == space.shape
    assert np.array_equal(x, scaled)
    assert space.contains(x)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int64])
def test_scaled_actions_stay_in_the_bounds_and_come_back(dtype):
    rng = np.random.default_rng(0)
    whole = np.issubdtype(dtype, np.integer)
    for _ in range(200):
        ends = np.sort(rng.normal(size=(2, 5)) * 10 ** rng.uniform(0 if whole else -3, 2 if whole else 4), axis=0)
        low, high = ends.astype(dtype)
        if not (low < high).all():
            continue
        space = gs.Box(low, high, dtype=dtype)
        ulp = np.spacing(np.abs(ends).max(0)) if dtype == np.float64 else 0  # narrower dtypes meet their ends exactly
        assert (np.abs(actions.scale_action(space, -np.ones(5)) - low) <= ulp).all()
        assert (np.abs(actions.scale_action(space, np.ones(5)) - high) <= ulp).all()
        a = rng.uniform(-1, 1, 5).astype(F32)
        x = actions.scale_action(space, a)
        assert (low <= x).all()
        assert (x <= high).all()
        # half a unit in the last place of the dtype at the larger bound, as a fraction of the half-width
        step = np.ones(5) if whole else np.spacing(np.maximum(np.abs(low), np.abs(high)))
        bound = step.astype(np.float64) / (high.astype(np.float64) - low.astype(np.float64)) + 1e-6
        assert (np.abs(actions.unscale_action(space, x) - a) <= bound).all()


def test_widest_bounds_do_not_overflow():
    top = np.finfo(np.float64).max
    assert actions.scale_action(gs.Box(-top, top, (1,), np.float64), [0.5])[0] == top / 2


def test_unscale_by_hand():
    assert actions.unscale_action(gs.Box(0, 10, (1, 2)), [[2.5, 10]]).tolist() == [-0.5, 1]
    assert actions.unscale_action(gs.Box(0, 255, (2,), np.uint8), [0, 255]).tolist() == [-1, 1]
    assert told(actions.unscale_action, gs.Box(0, 1, (2,)), [0.5]) == "action has the shape (1,); it must have (2,)"


def test_actions_of_choices_count_from_start():
    assert actions.translator(gs.Discrete(3, start=5))(np.int64(2)) == 7
    act = actions.translator(gs.MultiDiscrete([[2, 3]], start=[[1, -1]], dtype=np.int32))
    assert act([1, 0]).tolist() == [[2, -1]]
    assert act([1, 0]).dtype == np.int32


@pytest.mark.parametrize(
    ("space", "action", "text"),
    [
        (gs.Box(-1, 1, (3,)), [0.5], "action has the shape (1,); it must have (3,)"),  # would broadcast
        (gs.Box(-1, 1, (2,)), [0, math.nan], "action[1] is nan; it must be finite and at most 1e+15 in size"),
        (gs.Discrete(3, start=1), 3, "action is 3; it must be an integer from 0 to 2"),
        (gs.Discrete(3), 0.5, "action is 0.5; it must be an integer from 0 to 2"),
        (gs.MultiDiscrete([2, 3], start=[1, 1]), [0, 3], "action[1] is 3; it must be an integer from 0 to 2"),
    ],
)
def test_wrong_actions(space, action, text):
    assert told(actions.translator(space), action) == text


@pytest.mark.parametrize(
    ("space", "action", "scaled"),
    [
        (gs.Box(-np.inf, np.inf, (2,)), [7.5, -300], [7.5, -300]),  # neither scaled nor clipped
        (gs.Box(0, np.inf, (2,)), [7.5, -300], [7.5, 0]),  # clipped at the bound that there is
        (gs.Box(np.array([-np.inf, 0], F32), np.array([4, 10], F32)), [5, 0], [4, 5]),  # scaled where there are both
        (gs.Box(-np.inf, np.inf, (1, 1), np.float64), [1e9], [[1e9]]),
    ],
)
def test_without_a_bound_numbers_are_as_they_are(space, action, scaled):
    x = actions.scale_action(space, np.array(action, F32))
    assert x.dtype == space.dtype
    assert np.array_equal(x, scaled)
    assert space.contains(x)
    inside = actions.unscale_action(space, x)
    assert np.array_equal(actions.scale_action(space, inside), x)


def test_a_row_becomes_an_action_by_hand():
    row = np.array([-1, 0.5, 0.25, 1, 2, 1, 0, 1, 3], F32)  # throttle is a scalar in [-1, 1]
    made = actions.translator(TREE)(row)
    assert made["gear"] == 7
    assert made["more"][0].tolist() == [[0, 7.5]]
    assert made["more"][1].tolist() == [[1, 0]]
    assert made["none"] == ()
    assert made["throttle"] == 0.25
    assert made["where"]["row"].tolist() == [1, 2]
    assert made["where"]["whole"].tolist() == [8]
    assert TREE.contains(made)
    assert actions.unscale_action(TREE, made).tolist() == row.tolist()


def same_types(a, b):
    if isinstance(a, dict):
        assert type(b) is dict
        assert list(a) == list(b)
        return all(same_types(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return isinstance(b, tuple) and all(map(same_types, a, b))
    return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape


KINDS_OF_ACTIONS = [
    gs.Discrete(3), gs.Discrete(4, start=-2), gs.MultiDiscrete([2, 3]),
    gs.MultiDiscrete([[2, 3]], start=[[1, -1]], dtype=np.int16),
    gs.MultiBinary(3), gs.MultiBinary((2, 2)), gs.Box(-2, 3, (2,)), gs.Box(0, 9, (2, 1), np.int32), gs.Box(-1, 1, ()),
    gs.Tuple([gs.Discrete(2), gs.Discrete(3)]), gs.Dict({"a": gs.Discrete(5, start=2)}), gs.Dict({"a": gs.Box(0, 1, (2,))}),
    gs.Tuple([gs.Tuple([gs.Box(-1, 1, (1,)), gs.Discrete(2)]), gs.Dict({"x": gs.MultiBinary(1)})]), TREE,
]  # fmt: skip


@pytest.mark.parametrize("space", KINDS_OF_ACTIONS, ids=str)
def test_every_sample_comes_back_as_it_was_and_of_its_type(space):
    translate, learner = actions.translator(space), actions.learners(actions.spec(gs.Discrete(2), space))
    space.seed(0)
    for _ in range(20):
        wanted = space.sample()
        row = actions.unscale_action(space, wanted)
        assert learner.contains(row if learner.shape else int(row)), row
        made = translate(row)
        assert space.contains(made)
        assert same_types(wanted, made), (wanted, made)
        np.testing.assert_allclose(spaces.flatten(space, made), spaces.flatten(space, wanted), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("space", "row", "text"),
    [
        (gs.MultiBinary(2), [0, 2], "action[1] is 2; it must be an integer from 0 to 1"),
        (gs.MultiBinary(2), [0], "action is array([0]); it must be integers of shape (2,)"),
        (gs.Tuple([gs.Discrete(2), gs.Discrete(3)]), [0, 3], "action[1] is 3; it must be an integer from 0 to 2"),
        (gs.Tuple([gs.Discrete(2), gs.Discrete(3)]), [0], "action is array([0]); it must be 2 integers"),
        (gs.Dict({"a": gs.Box(0, 1, (2,))}), [0], "action has the shape (1,); it must have (2,)"),
        (TREE, [0] * 8, "action has the shape (8,); it must have (9,)"),
        (TREE, [0] * 3 + [math.inf] + [0] * 5, "action[3] is inf; it must be finite and at most 1e+15 in size"),
        (TREE, [0] * 4 + [3, 0, 0, 0, 0], "action['gear'] is 3; it must be an integer from 0 to 2"),
        (TREE, [0] * 8 + [4], "action['where']['row'][1] is 4; it must be an integer from 0 to 3"),
    ],
)
def test_wrong_rows_are_named(space, row, text):
    assert told(actions.translator(space), np.array(row)) == text


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ({"a": [0, 0]}, "action is {'a': [0, 0]}; it must have the parts ['a', 'b']"),
        ({"a": [0, 0], "c": (1, [0, 0])}, "action is {'a': [0, 0], 'c': (1, [0, 0])}; it must have the parts ['a', 'b']"),
        ({"a": [0, 0], "b": (1,)}, "action['b'] is (1,); it must have the parts [0, 1]"),
        ({"a": [0, 0], "b": (4, [0, 0])}, "action['b'][0] is 4; it must be an integer from 1 to 3"),
        ({"a": [0, 0], "b": (1.5, [0, 0])}, "action['b'][0] is 1.5; it must be an integer of shape ()"),
        ({"a": [0, math.nan], "b": (1, [0, 0])}, "action['a'][1] is nan; it must be finite and at most 1e+15 in size"),
    ],
)
def test_wrong_actions_are_named(action, text):
    assert told(actions.unscale_action, NESTED, action) == text


# ----------------------------------------------------------------------------------------------------------------- spec


def test_spec():
    box = gs.Box(-1, 1, (2, 2))
    assert actions.spec(NESTED, box) == core.Spec(core.Box(7), core.Box(4))
    assert actions.spec(box, gs.Discrete(3, start=2)) == core.Spec(core.Box(4), core.Discrete(3))
    assert actions.spec(box, gs.MultiDiscrete([[2, 3]])) == core.Spec(core.Box(4), core.MultiDiscrete((2, 3)))
    assert actions.spec(box, gs.MultiBinary((2, 2))).action == core.MultiDiscrete((2, 2, 2, 2))
    assert actions.spec(box, gs.Dict({"a": gs.Discrete(3)})).action == core.Discrete(3)
    assert actions.spec(box, gs.Tuple([gs.Box(0, 1, (2,)), gs.Box(-3, 3, ())])).action == core.Box(3)
    assert actions.spec(box, TREE).action == core.Mixed(4, (3, 2, 2, 2, 4))


def test_what_lacks_a_bound_is_said():
    box = gs.Box(-1, 1, (1,))
    for space, text in (
        (gs.Box(-np.inf, np.inf, (2,)), "action_space.low[0] is -inf"),
        (gs.Box(np.array([[0, 1]], F32), np.array([[np.inf, 2]], F32)), "action_space.high[0, 0] is inf"),
        (gs.Dict({"a": gs.Discrete(2), "b": gs.Box(-1, np.inf, ())}), "action_space['b'].high is inf"),
    ):
        assert not actions.spec(box, space).bounded
        assert actions.missing_bound(space) == text
    assert actions.spec(box, TREE).bounded
    assert actions.missing_bound(TREE) == "every bound is finite"


def test_a_mask_is_the_last_numbers_of_an_observation():
    seen = gs.Dict({"action_mask": gs.Box(0, 1, (5,), np.int8), "z": gs.Box(-1, 1, (2,)), "a": gs.Discrete(2)})
    made = actions.spec(seen, gs.MultiDiscrete([2, 3]))
    assert made == core.Spec(core.Box(9), core.MultiDiscrete((2, 3)), mask=5)
    flat = spaces.flatten(seen, {"action_mask": np.array([1, 0, 0, 1, 1], np.int8), "a": 1, "z": [0.5, -0.5]})
    assert flat.tolist() == [0, 1, 0.5, -0.5, 1, 0, 0, 1, 1]
    assert actions.spec(seen, gs.Box(-1, 1, (2,))).mask == 0  # of a vector there is none


KINDS = "it must be a Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these"


@pytest.mark.parametrize(
    ("obs", "action", "text"),
    [
        (gs.Text(5), gs.Discrete(2), f"observation_space is a Text; {KINDS}"),
        (gs.Dict({"x": gs.Tuple([gs.Text(2)])}), gs.Discrete(2), f"observation_space['x'][0] is a Text; {KINDS}"),
        (gs.Box(0, 1, (0,)), gs.Discrete(2), "observation_space is empty; it must hold at least one number"),
        (gs.Dict({}), gs.Discrete(2), "observation_space is empty; it must hold at least one number"),
        (gs.Discrete(2**40), gs.Discrete(2), f"observation_space has {2**40} numbers when flat; at most 16777216 are allowed"),
        (gs.Discrete(2), gs.Dict({"a": gs.Text(2)}), f"action_space['a'] is a Text; {KINDS}"),
        (gs.Discrete(2), gs.Dict({"a": gs.Tuple([])}), "action_space is empty; it must hold at least one number"),
        (gs.Discrete(2), gs.Box(0, 1, (0,)), "action_space is empty; it must hold at least one number"),
        (
            gs.Discrete(2),
            gs.Box(-np.inf, 1, (1,), np.int64),
            f"action_space.low[0] is {-(2**63)}; bounds of integers must be finite",
        ),
        (
            gs.Discrete(2),
            gs.Box(np.array([0, 1], F32), np.array([1, 1], F32)),
            "action_space[1] has low = high = 1.0; low must be less than high",
        ),
        (
            gs.Discrete(2),
            gs.Dict({"a": gs.Box(1, 1, (1,))}),
            "action_space['a'][0] has low = high = 1.0; low must be less than high",
        ),
        (
            gs.Dict({"action_mask": gs.MultiBinary(3), "x": gs.Box(0, 1, (1,))}),
            gs.Discrete(2),
            "observation_space['action_mask'] has 3 numbers; it must have one for each choice: 2",
        ),
        (
            gs.Dict({"action_mask": gs.MultiBinary(2)}),
            gs.Discrete(2),
            "observation_space has the part 'action_mask' alone; it must hold something to observe too",
        ),
    ],
)
def test_spec_refuses(obs, action, text):
    assert told(actions.spec, obs, action) == text
