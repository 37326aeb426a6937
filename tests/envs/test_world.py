import functools
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces as gs
from gymnasium.envs.classic_control import PendulumEnv

from thespis import core, envs
from thespis.core import Fault


class Drawn(gym.Env):
    """One that can be drawn, unless `frame` says otherwise."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    observation_space = gs.Box(-1, 1, (2,))
    action_space = gs.Discrete(2)
    frame = np.zeros((4, 6, 3), np.uint8)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}

    def render(self):
        if isinstance(self.frame, Exception):
            raise self.frame
        return self.frame


def told(call, *args, **kwargs):
    with pytest.raises(Fault) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def register():
    ids = []

    def add(key, entry_point, **how):
        gym.register(key, entry_point, **how)
        ids.append(key)

    yield add
    for key in ids:
        gym.registry.pop(key)


# -------------------------------------------------------------------------------------------------------------- an id


def test_an_id():
    world = envs.world("HalfCheetah-v5")
    assert world.name == "HalfCheetah-v5"
    assert world.spec == core.Spec(core.Box(17), core.Box(6), horizon=1000)
    assert world.observation_space == gs.Box(-np.inf, np.inf, (17,), np.float64)
    assert world.action_space == gs.Box(-1, 1, (6,), np.float32)
    a, b = world.make(), world.make()
    assert a.unwrapped is not b.unwrapped
    assert a.reset(seed=1)[0].tolist() == b.reset(seed=1)[0].tolist()


def test_more_ids():
    assert envs.world("FrozenLake-v1").spec[:2] == (core.Box(16), core.Discrete(4))
    assert envs.world("Blackjack-v1").spec[:2] == (core.Box(32 + 11 + 2), core.Discrete(2))
    assert envs.world("thespis/Counter-v0").spec.horizon is None


@pytest.mark.parametrize("name", ["HalfCheetah", "halfcheetah-v5", "HalfCheetah-v9", "HalfCheeta-v5", "halfcheetah"])
def test_near_names(name):
    assert told(envs.world, name) == f"env is {name!r}, which gymnasium does not register; did you mean HalfCheetah-v5?"


def test_names_near_to_several():
    text = told(envs.world, "thespis/OneStp-v0")
    assert "; did you mean thespis/OneStep-v0 or " in text
    assert text.count(" or ") == 2


@pytest.mark.parametrize("name", ["zzzzzz-v1", "", "a b"])
def test_no_name_is_near(name):
    hint = "'module:Env-v0' imports the module that registers it"
    assert told(envs.world, name) == f"env is {name!r}, which gymnasium does not register; {hint}"


def test_a_version_that_was_taken_away():
    text = told(envs.world, "HalfCheetah-v3")
    assert text.startswith("HalfCheetah-v3: cannot be made: ")
    assert text.endswith("; did you mean HalfCheetah-v5?")


def test_a_package_that_is_missing(register):
    def box2d(**_):
        raise gym.error.DependencyNotInstalled('Box2D is not installed,\nrun `pip install "gymnasium[box2d]"`')

    register("tests/Lander-v0", box2d)
    text = 'tests/Lander-v0: cannot be made: Box2D is not installed, run `pip install "gymnasium[box2d]"`'
    assert told(envs.world, "tests/Lander-v0") == text
    register("tests/Module-v0", "no_such_module_at_all:Env")
    text = "tests/Module-v0: cannot be made: No module named 'no_such_module_at_all'; install the package that provides it"
    assert told(envs.world, "tests/Module-v0") == text


@pytest.mark.parametrize(("name", "package"), [("brax/walker2d", "brax"), ("playground/FishSwim", "mujoco_playground")])
def test_a_simulator_in_jax_without_its_package_names_the_extra(name, package, monkeypatch):
    pytest.importorskip("jax", reason="the extra jax is not installed")  # else it is JAX that is told of
    monkeypatch.setitem(sys.modules, package, None)
    said = told(envs.world, name)
    assert said.startswith(f"{name}: cannot be made: ")
    assert package in said
    assert said.endswith('pip install "thespis[jax]"')


def test_a_simulator_in_jax_without_jax_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    assert told(envs.world, "brax/pusher").endswith('pip install "thespis[jax]"')
    assert envs.known("brax/pusher")
    assert not envs.known("braxe/pusher")


def test_a_module_that_registers(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_envs.py").write_text(
        "import gymnasium as gym\n"
        "gym.register('Theirs-v0', entry_point='gymnasium.envs.classic_control:PendulumEnv', max_episode_steps=7)\n"
    )
    (tmp_path / "their_fault.py").write_text("x = 1\n1 / 0\n")
    try:
        world = envs.world("their_envs:Theirs-v0")
        assert world.name == "their_envs:Theirs-v0"  # which makes it again
        assert world.spec.horizon == 7
        text = "env is 'their_envs:Their-v0', which their_envs does not register; did you mean Theirs-v0?"
        assert told(envs.world, "their_envs:Their-v0") == text
    finally:
        gym.registry.pop("Theirs-v0", None)
    text = "env is 'their_fault:X-v0'; its module cannot be imported (ZeroDivisionError: division by zero, their_fault.py line 2)"
    assert told(envs.world, "their_fault:X-v0") == text
    text = "env is 'no_such_module:X-v0'; its module cannot be imported (ModuleNotFoundError: No module named 'no_such_module')"
    assert told(envs.world, "no_such_module:X-v0").startswith(text[:-1])


# ---------------------------------------------------------------------------------------------------------- a callable


def make_pendulum():
    return gym.make("Pendulum-v1", g=3.0)


def test_a_callable():
    world = envs.world(make_pendulum)
    assert world.name == "make_pendulum"
    assert world.spec == core.Spec(core.Box(3), core.Box(1), horizon=200)
    a, b = world.make(), world.make()
    assert a.unwrapped is not b.unwrapped
    assert a.unwrapped.g == 3.0


def test_names_of_callables():
    assert envs.world(PendulumEnv).name == "PendulumEnv"
    assert envs.world(lambda: PendulumEnv()).name == "PendulumEnv"
    assert envs.world(lambda: gym.make("Pendulum-v1")).name == "Pendulum-v1"
    assert envs.world(functools.partial(gym.make, "Pendulum-v1")).name == "Pendulum-v1"


def test_callables_that_will_not_do():
    def needs(x):
        return x

    def fails():
        raise RuntimeError("no licence")

    def vector():
        return gym.make_vec("Pendulum-v1", 2)

    line = fails.__code__.co_firstlineno + 1
    must = "it must make one gymnasium.Env (no vector of them, not the old gym's)"
    assert told(envs.world, lambda: 3) == f"<lambda>: made 3; {must}"
    assert told(envs.world, vector).startswith("vector: made SyncVectorEnv...")
    assert told(envs.world, fails) == f"fails: cannot be made (RuntimeError: no licence, test_world.py line {line})"
    assert told(envs.world, needs).startswith("needs: cannot be made (TypeError: ")
    assert told(envs.world, 5) == "env is 5; it must be an id such as 'HalfCheetah-v5', a callable or a gymnasium.Env"


def test_spaces_that_will_not_do():
    class Endless(Drawn):
        action_space = gs.Box(-np.inf, np.inf, (2,), np.int64)

    assert told(envs.world, Endless) == f"Endless: action_space.low[0] is {-(2**63)}; bounds of integers must be finite"


def test_spaces_that_were_forgotten():
    class Forgetful(gym.Env):
        observation_space = gs.Discrete(2)

    assert told(envs.world, Forgetful).startswith("Forgetful: action_space is a NoneType; it must be a Box, Discrete, ")
    assert told(envs.world, gym.Env).startswith("Env: observation_space is a NoneType; it must be a Box, ")


def test_spaces_must_stay_the_same():
    sizes = iter([2, 2, 3])

    def shifting():
        env = Drawn()
        env.observation_space = gs.Box(-1, 1, (next(sizes),))
        return env

    world = envs.world(shifting)
    world.make()
    assert told(world.make) == "shifting: its spaces differ from one environment to the next; they must stay the same"


def test_a_callable_must_make_a_fresh_one():
    env = Drawn()
    assert told(envs.world(lambda: env).make) == "Drawn: made the same environment twice; each call must make a fresh one"


# --------------------------------------------------------------------------------------------------------- an instance


def test_an_instance_is_copied_with_what_was_changed_on_it_by_hand():
    """Though its spec says how to make another, and though EzPickle, which MuJoCo's have, would copy it as it was made."""
    given = gym.make("Pendulum-v1", g=3.0, max_episode_steps=5)
    given.unwrapped.max_torque = 7.0
    world = envs.world(given)
    assert (world.name, world.spec.horizon) == ("Pendulum-v1", 5)
    a, b = world.make(), world.make()
    assert len({id(e.unwrapped) for e in (a, b, given)}) == 3
    assert (a.unwrapped.g, b.unwrapped.max_torque) == (3.0, 7.0)
    cheetah = gym.make("HalfCheetah-v5")
    cheetah.unwrapped._forward_reward_weight = 50.0
    one, two = envs.world(cheetah).make(), envs.world(cheetah).make()
    for e in (one, two):
        e.reset(seed=1)
    assert one.unwrapped._forward_reward_weight == 50.0
    steps = [e.step(np.full(6, 0.5, np.float32)) for e in (one, two)]
    assert steps[0][0].tobytes() == steps[1][0].tobytes()
    one.step(np.full(6, 0.5, np.float32))  # a copy is stepped alone
    assert two.unwrapped.data.time != one.unwrapped.data.time


def test_an_instance_without_one_is_copied():
    given = PendulumEnv(g=4.0)
    world = envs.world(given)
    given.g = 5.0
    a, b = world.make(), world.make()
    assert len({id(e.unwrapped) for e in (a, b, given)}) == 3
    assert (a.unwrapped.g, b.unwrapped.g) == (4.0, 4.0)
    a.reset(seed=1)
    b.reset(seed=1)
    assert a.step(np.ones(1))[0].tolist() == b.step(np.ones(1))[0].tolist()


def test_an_instance_whose_wrapper_cannot_be_made_anew_is_copied():
    class Louder(gym.RewardWrapper):  # records no arguments, so gymnasium cannot make it from the spec
        def reward(self, reward):
            return 10 * float(reward)

    plain, louder = gym.make("Pendulum-v1"), envs.world(Louder(gym.make("Pendulum-v1"))).make()
    plain.reset(seed=1)
    louder.reset(seed=1)
    assert louder.step(np.zeros(1))[1] == pytest.approx(10 * plain.step(np.zeros(1))[1])


def test_an_instance_that_cannot_be_copied_is_the_only_one_and_stays_open():
    env, closed = Drawn(), []
    env.handle = open(os.devnull)  # noqa: SIM115
    env.close = lambda: closed.append(True)
    world = envs.world(env)
    first = world.make()
    assert first.unwrapped is env
    text = told(world.make)
    assert text.startswith("Drawn: this instance is the only one (TypeError: cannot pickle")
    assert text.endswith("; give a callable that makes others")
    first.close()
    assert not closed
    env.handle.close()


def test_a_list_is_told_how_to_give_several():
    text = told(envs.world, [Drawn, Drawn])
    assert text.startswith("env is a list of 2; give one id, callable or environment, and how many of it with num_envs")


def test_arguments_go_to_what_makes_it():
    for source in ("Pendulum-v1", functools.partial(gym.make, "Pendulum-v1"), PendulumEnv):
        assert envs.world(source, {"g": 2.5}).make().unwrapped.g == 2.5
    assert "unexpected keyword argument 'gravity'" in told(envs.world, "Pendulum-v1", {"gravity": 1})
    assert told(envs.world, PendulumEnv(), {"g": 1}).startswith("env_args is {'g': 1}; PendulumEnv is made already")


@pytest.mark.parametrize(("limit", "wanted"), [(np.int64(7), 7), (None, None)])
def test_a_time_limit(limit, wanted):
    env = Drawn()
    env._max_episode_steps = limit
    assert envs.world(env).spec.horizon == wanted


@pytest.mark.parametrize("limit", [0, -3, 2.5, "100", True])
def test_a_time_limit_that_is_none(limit):
    env = Drawn()
    env._max_episode_steps = limit
    assert told(envs.world, env) == f"Drawn: _max_episode_steps is {limit!r}; it must be a whole number of 1 or more, or None"


# ----------------------------------------------------------------------------------------------------------- rendering


def test_a_frame():
    env = envs.world(Drawn).make(render_mode="rgb_array")
    env.reset(seed=1)
    assert env.render().shape == (4, 6, 3)


def test_what_cannot_be_drawn(monkeypatch):
    cannot = "Drawn: cannot be rendered as 'rgb_array' here: "
    world = envs.world(Drawn)
    assert told(world.make, render_mode="human") == "Drawn: render_mode is 'human'; its environment declares ['rgb_array']"
    monkeypatch.setattr(Drawn, "frame", None)
    text = told(world.make, render_mode="rgb_array")
    assert text == f"{cannot}its render returned None; it must return an array (height, width, 3)"
    monkeypatch.setattr(Drawn, "frame", gym.error.DependencyNotInstalled("run `pip install pygame`"))
    text = told(world.make, render_mode="rgb_array")
    assert text.startswith(f"{cannot}DependencyNotInstalled: run `pip install pygame`, test_world.py line")
    must = "it was made with render_mode None; the callable must take render_mode and pass it on"
    assert told(envs.world(lambda: Drawn()).make, render_mode="rgb_array") == f"{cannot}{must}"
    text = "thespis/Value-v0: render_mode is 'rgb_array'; its environment declares []"
    assert told(envs.world("thespis/Value-v0").make, render_mode="rgb_array") == text


def test_mujoco_is_drawn_or_a_fault_says_why_not(monkeypatch):
    world = envs.world("HalfCheetah-v5")
    monkeypatch.setenv("MUJOCO_GL", "bogus")
    text = told(world.make, render_mode="rgb_array")
    assert text.startswith("HalfCheetah-v5: cannot be rendered as 'rgb_array' here: RuntimeError: Environment variable MUJOCO_GL")
    assert "; MUJOCO_GL is 'bogus': without a screen it must be egl" in text
    monkeypatch.delenv("MUJOCO_GL")
    try:
        env = world.make(render_mode="rgb_array")
    except Fault as fault:
        pytest.skip(str(fault))
    env.reset(seed=1)
    frame = env.render()
    env.close()
    assert frame.dtype == np.uint8
    assert frame.shape[-1] == 3
    assert frame.std() > 1  # a picture, not one colour


def test_mujoco_without_graphics_is_one_line_and_no_crash(tmp_path):
    """Also: making MuJoCo's environments prints nothing and leaves no log."""
    code = """if True:
        import os
        from thespis import core, envs
        for mode in None, "rgb_array":
            for source in "Hopper-v5", lambda: __import__("gymnasium").make("HalfCheetah-v5"):
                try:
                    print(envs.world(source).make(render_mode=mode).name)
                except core.Fault as fault:
                    print(fault)
        print(os.environ.get("MUJOCO_GL"), os.listdir())
    """
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM")}
    env |= {"PYTHONPATH": str(Path(envs.__file__).parents[2]), "__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent"}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["Hopper-v5", "HalfCheetah-v5"]
    assert lines[2].startswith("Hopper-v5: cannot be rendered as 'rgb_array' here: ")
    assert "MUJOCO_GL is 'egl': without a screen it must be egl" in lines[2]
    assert lines[3].startswith("HalfCheetah-v5: cannot be rendered as 'rgb_array' here: it was made with render_mode None")
    assert lines[4:] == ["None []"]  # no MUJOCO_LOG.TXT, and the attempt with EGL is taken back
