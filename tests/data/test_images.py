"""Images in bytes beside the same observations as floats: what is sampled is equal to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from gymnasium import spaces

from thespis.core import Batch, Box, OffPolicy, Spec, leaves
from thespis.data import OnPolicy, Replay, Rollout, Shards, memory
from thespis.envs.actions import spec
from thespis.envs.observations import flatten

PICTURE = spaces.Box(0, 255, (4, 3, 3), np.uint8)
ARM = spaces.Box(-np.inf, np.inf, (2,), np.float32)
ACTION = spaces.Box(-1, 1, (1,), np.float32)
SPACES = [
    PICTURE,
    spaces.Dict(arm=ARM, left=PICTURE, right=PICTURE),
    spaces.Tuple((PICTURE, spaces.Discrete(3), PICTURE, ARM)),
    spaces.Dict(deep=spaces.Dict(eye=PICTURE, arm=ARM), z=spaces.MultiBinary(2)),
]
FEED = OffPolicy(0.9, 3, 64, 30, 0, 1.0)


@pytest.mark.parametrize(
    ("space", "images", "size"),
    [
        (PICTURE, ((0, 36),), 36),
        (SPACES[1], ((2, 38), (38, 74)), 72 + 8),
        (SPACES[2], ((0, 36), (39, 75)), 72 + 3 * 4 + 8),
        (SPACES[3], ((0, 36),), 36 + 8 + 2 * 4),
        (ARM, (), 8),
        (spaces.Box(0, 9, (3,), np.uint8), (), 12),  # not scaled, so no image
    ],
)
def test_which_numbers_are_bytes(space: spaces.Space, images: tuple, size: int) -> None:
    s = spec(space, ACTION)
    assert s.images == images
    replay = Replay(s, FEED)
    assert replay.obs.nbytes == 31 * size
    assert memory(s, FEED, 1)[0] == ("replay_size", 30, size + 4 + 10)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("num_envs", [1, 2])
def test_bytes_and_floats_give_the_same_batches(space: spaces.Space, num_envs: int) -> None:
    """Also over the ring's end, at episodes' ends and cuts, and written to disk and read again."""
    s, rng = spec(space, ACTION), np.random.default_rng(0)
    space.seed(0)

    def observed() -> np.ndarray:
        return np.stack([flatten(space, space.sample()) for _ in range(num_envs)])

    packed, plain = Replay(s, FEED, num_envs), Replay(s._replace(images=()), FEED, num_envs)
    obs, segments = observed(), []
    for t in range(50):
        last, ended = observed(), rng.random(num_envs) < 0.2
        step = obs, rng.normal(size=(num_envs, 1)), rng.normal(size=num_envs), ended & (rng.random() < 0.5), ended, last
        for replay in packed, plain:
            replay.add(*step)
            if t % 13 == 5:
                replay.cut(0)
        obs = np.where(ended[:, None], observed(), last)
        if t % 10 == 9:
            segments.append((t - 9, packed.segment(t - 9, t + 1)))
            same(packed.sample(), plain.sample())
    again = Replay(s, FEED, num_envs)
    again.load(segments, 50)
    again.rng.set_state(packed.rng.get_state())
    same(again.sample(), packed.sample())
    assert np.array_equal(packed.obs[np.int32(3)], plain.obs[3])  # one row alone
    assert segments[0][1]["obs"].dtype == segments[0][1]["finals"].dtype == torch.uint8


def same(a: Batch, b: Batch) -> None:
    for (name, x), y in zip(leaves(a).items(), leaves(b).values(), strict=True):
        assert torch.equal(x, y), name


def test_a_number_that_is_no_pixel_is_brought_to_the_nearest() -> None:
    replay = Replay(Spec(Box(4), Box(1), images=((0, 4),)), FEED)
    obs = np.array([[-0.5, 1.5, 0.3, 1.0]], np.float32)
    replay.add(obs, np.zeros((1, 1)), np.zeros(1), np.zeros(1, bool), np.zeros(1, bool), obs)
    torch.testing.assert_close(replay.sample().obs[0], torch.tensor([0.0, 1.0, 76 / 255, 1.0]))


def test_every_byte_comes_back() -> None:
    x = flatten(spaces.Box(0, 255, (256,), np.uint8), np.arange(256))
    replay = Replay(Spec(Box(256), Box(1), images=((0, 256),)), FEED)
    replay.obs[:1] = x[None]
    assert np.array_equal(replay.obs[:1][0], x)
    assert np.array_equal(replay.obs.packed[0], np.arange(256))


def test_shards_keep_bytes() -> None:
    shards = Shards(spec(PICTURE, ACTION), FEED, 3)
    assert sum(part.obs.nbytes for part in shards.parts) == 33 * 36


@pytest.mark.parametrize("sizes", [lambda r: (r.obs, r.next_obs, r.action, r.reward, r.terminated, r.ended)])
def test_a_rollout_takes_what_is_foreseen(sizes: Callable) -> None:
    s, feed = spec(SPACES[1], ACTION), OnPolicy(0.9, 5, 1, 4)
    assert memory(s, feed, 3) == [("rollout", 5, sum(x.nbytes for x in sizes(Rollout(s, feed, 3))) // 5)]
