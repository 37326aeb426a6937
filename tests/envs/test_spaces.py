import inspect
import json
import math

import numpy as np
import pytest
from gymnasium import spaces as gs

from thespis.core import Fault
from thespis.envs import spaces, spaces_json

F32 = np.float32
KINDS = "it must be a Box, Discrete, MultiDiscrete, MultiBinary, or a Dict or Tuple of these"
IMAGE = gs.Box(0, 255, (2, 2, 3), np.uint8)
NESTED = gs.Dict({"b": gs.Tuple([gs.Discrete(3, start=1), gs.MultiBinary(2)]), "a": gs.Box(-1, 1, (2,))})


def told(call, *args):
    with pytest.raises(Fault) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------- flatten


@pytest.mark.parametrize(
    ("space", "obs", "flat"),
    [
        (gs.Box(-9, 9, (2, 2), np.float64), [[1.5, 2], [3, 4]], [1.5, 2, 3, 4]),
        (gs.Box(-9, 9, ()), 2.5, [2.5]),
        (gs.Box(-9, 9, (2,), np.int32), np.array([-3, 7]), [-3, 7]),
        (gs.Box(0, 255, (2,), np.int32), np.array([0, 255]), [0, 255]),  # not uint8: no image
        (gs.Box(0, 254, (2,), np.uint8), np.array([0, 254], np.uint8), [0, 254]),  # not 0..255: no image
        (gs.Box(0, 255, (3,), np.uint8), np.array([0, 51, 255], np.uint8), [0, F32(51) / F32(255), 1]),
        (gs.Discrete(4), 2, [0, 0, 1, 0]),
        (gs.Discrete(3, start=-1), np.int64(-1), [1, 0, 0]),
        (gs.Discrete(3), np.array(2), [0, 0, 1]),
        (gs.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
        (gs.MultiDiscrete([2, 3], start=[5, -1]), [5, 1], [1, 0, 0, 0, 1]),
        (gs.MultiDiscrete([[2], [2]]), [[0], [1]], [1, 0, 0, 1]),
        (gs.MultiBinary(3), np.array([1, 0, 1], np.int8), [1, 0, 1]),
        (gs.MultiBinary((2, 1)), [[0], [1]], [0, 1]),
        (NESTED, {"b": (3, [1, 0]), "a": [0.5, -0.5]}, [0.5, -0.5, 0, 0, 1, 1, 0]),  # gymnasium sorts the keys: a, b
        (gs.Dict([("b", gs.Discrete(2)), ("a", gs.Discrete(2))]), {"a": 0, "b": 1}, [0, 1, 1, 0]),  # but keeps a list's order
    ],
)
def test_flatten(space, obs, flat):
    x = spaces.flatten(space, obs)
    assert x.dtype == F32
    assert x.shape == (spaces.flat_dim(space),)
    np.testing.assert_array_equal(x, np.array(flat, F32))


def test_flatten_copies():
    obs = np.ones(3, F32)
    x = spaces.flatten(gs.Box(-1, 1, (3,)), obs)
    obs[:] = 7
    assert x.tolist() == [1, 1, 1]


def test_flatten_reads_a_transposed_array_row_by_row():
    x = np.arange(6, dtype=F32).reshape(3, 2).T
    assert spaces.flatten(gs.Box(-9, 9, (2, 3)), x).tolist() == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize(
    ("space", "obs", "text"),
    [
        (gs.Box(-1, 1, (4,)), [0, 0, 0, math.nan], "observation[3] is nan; it must be finite and at most 1e+15 in size"),
        (
            gs.Box(-1, 1, (2, 2)),
            [[0, -math.inf], [0, 0]],
            "observation[0, 1] is -inf; it must be finite and at most 1e+15 in size",
        ),
        (gs.Box(-1, 1, ()), math.nan, "observation is nan; it must be finite and at most 1e+15 in size"),
        (gs.Box(-1, 1, (3,)), np.zeros((3, 1)), "observation has the shape (3, 1); it must have (3,)"),
        (gs.Box(-1, 1, (2,)), [[1], [1, 2]], "observation is [[1], [1, 2]]; it must be numbers of shape (2,)"),
        (gs.Box(-1, 1, (2,)), {"a": 1}, "observation is {'a': 1}; it must be numbers of shape (2,)"),
        (gs.Box(-1, 1, (1,)), ["x"], "observation is ['x']; it must be numbers of shape (1,)"),
        (gs.Discrete(3, start=1), 0, "observation is 0; it must be an integer from 1 to 3"),
        (gs.Discrete(3), 3, "observation is 3; it must be an integer from 0 to 2"),
        (gs.Discrete(3), 1.0, "observation is 1.0; it must be an integer from 0 to 2"),
        (gs.Discrete(3), None, "observation is None; it must be an integer from 0 to 2"),
        (gs.MultiDiscrete([2, 3]), [1, 3], "observation[1] is 3; it must be an integer from 0 to 2"),
        (gs.MultiDiscrete([2, 3], start=[4, 4]), [3, 4], "observation[0] is 3; it must be an integer from 4 to 5"),
        (gs.MultiDiscrete([2, 3]), [1.0, 1.0], "observation is [1.0, 1.0]; it must be integers of shape (2,)"),
        (gs.MultiDiscrete([2, 3]), [1], "observation is [1]; it must be integers of shape (2,)"),
        (NESTED, {"a": [0, 0]}, "observation has the parts ['a']; it must have the parts ['a', 'b']"),
        (NESTED, [0, 0], "observation is [0, 0]; it must have the parts ['a', 'b']"),
        (
            NESTED,
            {"a": [0, math.inf], "b": (1, [0, 0])},
            "observation['a'][1] is inf; it must be finite and at most 1e+15 in size",
        ),
        (NESTED, {"a": [0, 0], "b": (9, [0, 0])}, "observation['b'][0] is 9; it must be an integer from 1 to 3"),
        (NESTED, {"a": [0, 0], "b": (1,)}, "observation['b'] is (1,); it must have the parts [0, 1]"),
    ],
)
def test_flatten_names_what_is_wrong(space, obs, text):
    assert told(spaces.flatten, space, obs) == text


@pytest.mark.filterwarnings("ignore:overflow")
def test_too_large_for_float32_is_not_finite():
    text = told(spaces.flatten, gs.Box(-1, 1, (2,), np.float64), [0.0, 1e300])
    assert text == "observation[1] is inf; it must be finite and at most 1e+15 in size"


# ----------------------------------------------------------------------------------------------------------------- JSON

SPACES = [
    gs.Box(-1, 1, (3,)),
    gs.Box(-np.inf, np.inf, (17,), np.float64),
    gs.Box(np.array([-np.inf, 0.1, -1e-45], F32), np.array([np.pi, np.inf, 3.4e38], F32)),
    gs.Box(np.array([[0.1, -5e-324]]), np.array([[1 / 3, 1e308]]), dtype=np.float64),
    gs.Box(-0.1, 0.1, (2,), np.float16),
    gs.Box(0, 255, (210, 160, 3), np.uint8),
    gs.Box(-np.inf, np.inf, (2,), np.int64),
    gs.Box(-np.inf, 3, (2,), np.int8),
    gs.Box(np.array([-(2**63), 0]), np.array([5, 2**63 - 1]), dtype=np.int64),
    gs.Box(0, 2**64 - 1, (1,), np.uint64),
    gs.Box(0, 1, (2,), bool),
    gs.Box(2, 3, ()),
    gs.Box(0, 1, (0, 3)),
    gs.Discrete(7),
    gs.Discrete(2, start=-3),
    *([gs.Discrete(2, dtype=np.int32)] if "dtype" in inspect.signature(gs.Discrete).parameters else []),
    gs.MultiDiscrete([2, 3]),
    gs.MultiDiscrete([[2, 3], [4, 4]], start=[[0, 1], [2, -3]], dtype=np.int16),
    gs.MultiBinary(4),
    gs.MultiBinary((2, 3)),
    NESTED,
    gs.Dict([("z", gs.Discrete(2)), ("a", gs.Discrete(3)), (4, gs.Dict({}))]),
    gs.Tuple([]),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_json_round_trip(space):
    written = json.dumps(spaces_json.to_json(space), allow_nan=False)
    back = spaces_json.from_json(json.loads(written))
    assert back == space  # gymnasium's comparison is approximate, hence the rest
    assert type(back) is type(space)
    assert spaces_json.to_json(back) == spaces_json.to_json(space)
    if isinstance(space, gs.Box):
        for name in "low", "high", "bounded_below", "bounded_above":
            a, b = getattr(space, name), getattr(back, name)
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tobytes() == b.tobytes(), name
    if isinstance(space, gs.Dict):
        assert list(back.spaces) == list(space.spaces)


def test_json_is_small_and_exact():
    assert spaces_json.to_json(IMAGE) == {"kind": "box", "shape": [2, 2, 3], "dtype": "uint8", "low": 0, "high": 255}
    assert spaces_json.to_json(gs.Box(-np.inf, np.float32(0.1), (2,))) == {
        "kind": "box", "shape": [2], "dtype": "float32", "low": "-inf", "high": 0.10000000149011612,
    }  # fmt: skip


def test_json_tells_order_and_bounds_apart_where_gymnasium_does_not():
    a, b = gs.Dict([("x", gs.Discrete(2)), ("y", gs.Discrete(3))]), gs.Dict([("y", gs.Discrete(3)), ("x", gs.Discrete(2))])
    assert a == b
    assert spaces_json.to_json(a) != spaces_json.to_json(b)
    a, b = gs.Box(0, 1, (1,)), gs.Box(1e-9, 1, (1,))
    assert a == b
    assert spaces_json.to_json(a) != spaces_json.to_json(b)


def test_to_json_refuses():
    assert told(spaces_json.to_json, gs.Text(3)) == f"space is a Text; {KINDS}"
    text = "space has a part named (1, 2); a name must be a str or an int"
    assert told(spaces_json.to_json, gs.Dict([((1, 2), gs.Discrete(2))])) == text
    text = f"space.dtype is {np.dtype(np.longdouble).name}; it must be one of bool, "
    assert told(spaces_json.to_json, gs.Box(0, 1, (1,), np.longdouble)).startswith(text)


BOX = {"kind": "box", "shape": [2], "dtype": "float32", "low": 0, "high": 1}
DISCRETE = {"kind": "discrete", "n": 3, "start": 0, "dtype": "int64"}
MULTI = {"kind": "multi_discrete", "shape": [2], "n": [2, 3], "start": 0, "dtype": "int64"}


def deep(n):
    space = DISCRETE
    for _ in range(n):
        space = {"kind": "tuple", "parts": [space]}
    return space


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (None, "space is None; it must be an object whose kind is one of box, discrete, "),
        ([BOX], "space is [{"),
        ({}, "space is {}; it must be an object whose kind"),
        ({"kind": ["box"]}, "space is {'kind': ['box']}; it must be an object"),
        ({"kind": "graph"}, "space is {'kind': 'graph'}; it must be"),
        ({"kind": "discrete", "n": 3}, "space (discrete) has the fields ['kind', 'n']; it must have ['dtype', 'kind', "),
        (BOX | {"extra": 1}, "space (box) has the fields ['dtype', 'extra', "),
        (BOX | {"low": math.nan}, "space.low is nan; it must be numbers of float32"),
        (BOX | {"low": "x"}, "space.low has 'x'; it must be numbers of float32"),
        (BOX | {"low": None}, "space.low has None"),
        (BOX | {"low": True}, "space.low has True"),
        (BOX | {"low": {"a": 1}}, "space.low has {'a': 1}"),
        (BOX | {"low": [0, [0]]}, "space.low has [0]"),
        (BOX | {"low": []}, "space is damaged"),
        (BOX | {"low": [0, 0, 0]}, "space is damaged"),
        (BOX | {"low": 2}, "space is damaged (ValueError: 'Box all low ... high="),
        (BOX | {"high": 0.1}, "space.high is 0.1; it must be numbers of float32"),  # 0.1 is no float32
        (BOX | {"high": 1e300}, "space.high is 1e+300; it must be numbers of float32"),
        (BOX | {"high": 10**400}, "space is damaged (OverflowError"),
        (BOX | {"dtype": "int8", "high": 0.5}, "space.high has 0.5; it must be numbers of int8"),
        (BOX | {"dtype": "int8", "high": 300}, "space is damaged (OverflowError"),
        (BOX | {"dtype": "int8", "high": "-inf"}, "space.high has '-inf'; it must be numbers of int8"),
        (BOX | {"dtype": "uint8", "low": "-inf"}, "space.low has '-inf'; it must be numbers of uint8"),
        (BOX | {"dtype": "object"}, "space.dtype is 'object'; it must be one of bool, float16, "),
        (BOX | {"dtype": "float128"}, "space.dtype is 'float128'"),
        (BOX | {"dtype": ["float32"]}, "space is damaged (TypeError"),
        (BOX | {"shape": [-2]}, "space.shape is [-2]; it must be sizes of 0 or more"),
        (BOX | {"shape": [2.0]}, "space has 2.0 where an integer must be"),
        (BOX | {"shape": 2}, "space is damaged (TypeError"),
        (BOX | {"shape": [10**5, 10**5]}, f"space declares {10**10} numbers; at most 16777216 are allowed in all"),
        (BOX | {"shape": [0, 10**30]}, "space is damaged"),
        (BOX | {"shape": [1] * 100}, "space is damaged (ValueError"),
        ({"kind": "tuple", "parts": [DISCRETE | {"n": 2**23}] * 3}, f"space declares {2**23} numbers; at most 16777216"),
        (DISCRETE | {"n": 0}, "space is damaged"),
        (DISCRETE | {"n": True}, "space has True where an integer must be"),
        (DISCRETE | {"n": 10**30}, f"space declares {10**30} numbers"),
        (DISCRETE | {"dtype": "float32"}, "space.dtype is 'float32'; it must be one of bool, int16, "),
        (MULTI | {"n": [2, 0]}, "space is damaged"),
        (MULTI | {"n": 10**8}, f"space declares {2 * 10**8} numbers"),
        (MULTI | {"start": "inf"}, "space.start has 'inf'; it must be numbers of int64"),
        ({"kind": "multi_binary", "shape": [0]}, "space is damaged"),
        ({"kind": "multi_binary", "shape": [10**9]}, f"space declares {10**9} numbers"),
        ({"kind": "dict", "parts": {"a": DISCRETE}}, "space is damaged (ValueError"),
        ({"kind": "dict", "parts": [["a", DISCRETE], ["a", DISCRETE]]}, "space (dict) names a part twice"),
        ({"kind": "dict", "parts": [[None, DISCRETE]]}, "space has a part named None; a name must be a str or an int"),
        ({"kind": "tuple", "parts": 3}, "space is damaged (TypeError"),
        (deep(100_000), "space is damaged (RecursionError"),
    ],
)
def test_from_json_refuses(data, text):
    assert told(spaces_json.from_json, data).startswith(text)
