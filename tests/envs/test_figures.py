"""Drawing without OpenGL: outlines whose size is known."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from thespis.envs import Figures
from thespis.envs.figures import SIZE, TILT, _hull

mujoco = pytest.importorskip("mujoco")


class One(gym.Env):
    """A red geom on its own, one unit above the floor."""

    observation_space = action_space = spaces.Box(-1, 1, (1,))

    def __init__(self, geom):
        self.model = mujoco.MjModel.from_xml_string(
            '<mujoco><worldbody><geom type="plane" size="5 5 .1"/><body pos="3 0 1"><freejoint/>'
            f'<geom {geom} rgba="1 0 0 1"/></body></worldbody></mujoco>'
        )
        self.data = mujoco.MjData(self.model)
        mujoco.mj_forward(self.model, self.data)


def seen(geom):
    """The red picture elements, (n, 2): from the left and from above, in units of the geom's reach."""
    drawn = Figures(One(geom))
    image = drawn.render().astype(int)
    assert image.shape == (SIZE, SIZE, 3)
    inside = np.argwhere((image[..., 1] == 0) & (image[..., 0] > 100))[:, ::-1]
    return inside / (SIZE / (2.6 * drawn.reach))


def test_a_ball_is_a_disc():
    points = seen('type="sphere" size="0.5"')
    assert len(points) == pytest.approx(np.pi * 0.5**2 * (SIZE / 1.3) ** 2, rel=0.02)
    assert np.ptp(points, 0) == pytest.approx([1, 1], abs=0.02)


@pytest.mark.parametrize(
    ("geom", "wide", "high"),
    [
        ('type="box" size="0.3 0.2 0.4"', 0.6, 0.8 * np.cos(TILT) + 0.4 * np.sin(TILT)),
        ('type="capsule" size="0.1 0.5" euler="0 90 0"', 1.2, 0.2),
        ('type="cylinder" size="0.2 0.3"', 0.4, 0.6 * np.cos(TILT) + 0.4 * np.sin(TILT)),
        ('type="ellipsoid" size="0.4 0.1 0.2"', 0.8, 2 * np.hypot(0.2 * np.cos(TILT), 0.1 * np.sin(TILT))),
    ],
)
def test_other_shapes_have_their_sizes(geom, wide, high):
    assert np.ptp(seen(geom), 0) == pytest.approx([wide, high], abs=0.03)


def test_what_is_near_hides_what_is_far():
    env = Figures(gym.make("HalfCheetah-v5"))
    env.reset(seed=0)
    still = env.render()
    assert env.render().tobytes() == still.tobytes()
    env.unwrapped.data.qpos[0] += 0.5  # the view goes along: only the floor's lines move
    mujoco.mj_forward(env.unwrapped.model, env.unwrapped.data)
    moved = (env.render() != still).any(-1)
    assert 0.001 < moved.mean() < 0.02
    env.close()


def test_a_hull_has_the_corners_and_nothing_else():
    square = [(0.0, 0.0), (0.0, 2.0), (2.0, 0.0), (2.0, 2.0)]
    assert sorted(_hull([*square, (1.0, 1.0), (1.0, 0.0), (0.5, 1.5)])) == square


def test_only_mujocos_are_drawn():
    assert Figures.possible(gym.make("HalfCheetah-v5"))
    assert not Figures.possible(gym.make("CartPole-v1"))
