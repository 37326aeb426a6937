"""An episode to look at: what is in the video and in the stills, and what is left where something fails."""

import functools
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from PIL import Image

from thespis import envs
from thespis.core import Fault
from thespis.engine.film import SAMPLES, STILLS, WIDTH, Stills, _apart, _written, record
from thespis.envs import making


class Drawn(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (1,), np.float32)
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    fail = False
    actions = ()

    def __init__(self, render_mode=None):
        self.render_mode, self.t = render_mode, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, Drawn.actions = 0, []
        return np.array([self.np_random.uniform()], np.float32), {}

    def step(self, action):
        Drawn.actions.append(float(action[0]))
        self.t += 1
        if self.fail and self.t == 3:
            raise ValueError("out of ink")
        return np.full(1, 0.1 * self.t, np.float32), 1.0, self.t == 5, False, {}

    def render(self):
        return np.full((32, 64, 3), 40 * self.t, np.uint8)


def film(place, seed=3, world=Drawn, act=lambda obs, rows: obs, longest=100, contexts=None):
    return record(envs.world(world), act, place / "videos", "v", seed, longest, contexts=contexts)


def test_it_is_of_one_whole_episode(tmp_path, recwarn):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    first = float(np.float32(Drawn().reset(seed=3)[0][0]))
    paths = {"stills": str(tmp_path / "videos/v.png"), "video": str(tmp_path / "videos/v.mp4")}
    for _ in range(2):  # again, over the old one
        assert film(tmp_path) == paths
        assert Drawn.actions == pytest.approx([first, 0.1, 0.2, 0.3, 0.4])
        assert ffmpeg.count_frames_and_secs(paths["video"]) == (6, pytest.approx(0.6))  # the first state, and five steps
        assert {p.name for p in (tmp_path / "videos").iterdir()} == {"v.png", "v.mp4"}
    assert not recwarn.list


def test_an_episode_that_does_not_end_is_cut(tmp_path):
    film(tmp_path, longest=2)
    assert len(Drawn.actions) == 2


def test_the_stills_are_its_frames_in_order(tmp_path):
    film(tmp_path)
    with Image.open(tmp_path / "videos/v.png") as image:
        sheet = np.asarray(image)
    tall = WIDTH // 2  # frames are twice as wide as high
    assert sheet.shape == (2 * (tall + 30), 4 * WIDTH, 3)
    middles = [sheet[y + tall // 2, x + WIDTH // 2, 0] for y in (0, tall + 30) for x in range(0, 4 * WIDTH, WIDTH)]
    assert middles == [0, 40, 80, 120, 160, 200, 255, 255]  # six frames; the rest of the sheet is white


@pytest.mark.parametrize("steps", [0, 1, 7, 31, 32, 33, 64, 200, 1000, 2**13 - 1])
def test_stills_of_any_length_are_few_and_evenly_apart(steps):
    stills = Stills()
    for step in range(steps + 1):
        stills.add(np.zeros((1, 1, 3), np.uint8), step, 0.0)
        assert len(stills.kept) <= 4 * STILLS
    at = [int(text.split()[1].replace(",", "")) for _, text in stills.chosen()]
    assert at[0] == 0
    assert at[-1] == steps
    assert len(at) == min(STILLS, steps + 1)
    if steps >= STILLS:
        gaps = np.diff(at) / (steps / (STILLS - 1))
        assert 0.6 < gaps.min() <= gaps.max() < 1.4


def test_of_several_contexts_the_ends_are_shown(tmp_path):
    rows = np.array([[0.2, 0.0], [0.4, 0.0], [0.4, 0.0], [0.8, 0.0]], np.float32)
    film(tmp_path, contexts=rows)
    assert len(_apart(np.eye(20))) == STILLS
    assert [tuple(x) for x in _apart(rows)] == [tuple(x) for x in rows[[0, 1, 3]]]
    assert [_written(x) for x in (rows[1], np.eye(3)[2])] == ["0.40, 0.00", "skill 2"]
    with Image.open(tmp_path / "videos/v.png") as image:
        assert image.size == (3 * WIDTH, WIDTH // 2 + 30)


def test_without_an_encoder_there_are_stills(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert film(tmp_path) == {"stills": str(tmp_path / "videos/v.png")}
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["v.png"]


def test_an_environment_that_cannot_draw(tmp_path):
    with pytest.raises(Fault, match="render_mode"):
        film(tmp_path, world="thespis/Value-v0")
    assert not (tmp_path / "videos").exists()


def test_an_episode_that_fails_while_it_is_filmed_leaves_nothing(tmp_path, monkeypatch):
    film(tmp_path)
    before = {p: p.read_bytes() for p in (tmp_path / "videos").iterdir()}
    monkeypatch.setattr(Drawn, "fail", True)
    with pytest.raises(Fault, match="out of ink"):
        film(tmp_path, seed=4)
    assert {p: p.read_bytes() for p in (tmp_path / "videos").iterdir()} == before


def test_mujoco_is_drawn_where_nothing_can_render(tmp_path, monkeypatch):
    def broken(name, env, mode):
        raise Fault("no OpenGL here")

    monkeypatch.setattr(making, "_shown", broken)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    cheetah = functools.partial(gym.make, "HalfCheetah-v5", max_episode_steps=9)
    film(tmp_path, world=lambda render_mode=None: cheetah(render_mode=render_mode), act=lambda obs, rows: 0 * obs[:, :6])
    with Image.open(tmp_path / "videos/v.png") as image:
        assert len(image.getcolors(2**20)) > 20
    with pytest.raises(Fault, match="no OpenGL here"):  # not one of MuJoCo's
        film(tmp_path)


def test_pendulum_is_drawn_by_what_make_installs(tmp_path):
    pytest.importorskip("pygame")
    film(tmp_path, world="Pendulum-v1", act=lambda obs, rows: 0 * obs[:, :1], longest=3)
    with Image.open(tmp_path / "videos/v.png") as image:
        assert len(image.getcolors(2**20)) > 3


class Sampled(gym.Env):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Box(0, 4, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, True, False, {}

    def draw(self, obs, action):
        Sampled.given = obs, action
        return np.full((5, 7, 3), len(obs), np.uint8)


def test_a_world_that_draws_shows_the_first_actions_of_many_episodes_in_its_own_terms(tmp_path):
    paths = film(tmp_path, world=Sampled, act=lambda obs, rows: obs[:, :1])
    assert paths == {"stills": str(tmp_path / "videos/v.png")}
    obs, action = Sampled.given
    assert obs.tolist() == [Sampled().reset(seed=3 + i)[0].tolist() for i in range(SAMPLES)]
    np.testing.assert_allclose(action, 2 + 2 * obs[:, :1], rtol=1e-6)
    picture = np.asarray(Image.open(paths["stills"]))
    assert (picture == np.full((5, 7, 3), SAMPLES)).all()
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["v.png"]
