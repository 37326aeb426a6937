"""Steps as columns, D4RL's files and arrays, as episodes; and every way to be wrong, told in a line before anything is used."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from thespis import envs
from thespis.core import Fault
from thespis.data import Dataset, dataset

h5py = pytest.importorskip("h5py")
SEEN, ACTS = spaces.Box(-np.inf, np.inf, (2,), np.float32), spaces.Box(np.float32([-2]), np.float32([4]))


def columns(**more: Any) -> dict[str, Any]:
    """Six steps: the third ends an episode, the fifth is cut off."""
    obs = np.arange(12, dtype=np.float32).reshape(6, 2)
    flags = {"terminals": np.array([0, 0, 1, 0, 0, 0]), "timeouts": np.array([0, 0, 0, 0, 1, 0])}
    return {"observations": obs, "actions": np.linspace(-2, 4, 6)[:, None], "rewards": np.arange(6.0), **flags} | more


def read(source: Any, seen: Any = SEEN, acts: Any = ACTS) -> Dataset:
    return dataset.read(source, seen, acts, envs.spaces.flatten, envs.spaces.unscale_action)


def stored(given: dict[str, Any], place: Path, kind: str) -> Path:
    file = place / f"log.{kind}"
    if kind == "npz":
        np.savez_compressed(file, **given)
    else:
        with h5py.File(file, "w") as h:
            for name, column in given.items():
                h[name] = column
            h["infos/qpos"] = np.zeros(3)  # D4RL has more, which nobody reads
    return file


@pytest.mark.parametrize("kind", ["arrays", "npz", "hdf5"])
def test_episodes_without_next_observations(tmp_path: Path, kind: str) -> None:
    """A step that was cut off has no next observation: its own is the last of those before it."""
    found = read(columns() if kind == "arrays" else stored(columns(), tmp_path, kind))
    assert found.lengths.tolist() == [3, 1]
    assert found.obs[:, 0].tolist() == [0, 2, 4, 6]
    assert found.last[:, 0].tolist() == [4, 8]
    assert found.terminated.tolist() == [False, False, True, False]
    np.testing.assert_allclose(found.action[:, 0], [-1, -0.6, -0.2, 0.2], atol=1e-6)
    assert found.notes == (
        "data: 2 steps at which an episode was cut off are left out: there are no next_observations to say where they led",
    )


def test_episodes_with_next_observations_break_where_rows_do_not_join() -> None:
    after = np.roll(columns()["observations"], -1, 0)
    after[1] = 99  # row 2 begins elsewhere than row 1 led to
    found = read(columns(next_observations=after))
    assert found.lengths.tolist() == [2, 1, 2, 1]
    assert found.last[:, 0].tolist() == [99, 6, 10, 0]
    assert (len(found.reward), found.notes) == (6, ())
    assert found.returns().tolist() == [1.0, 2.0, 7.0, 5.0]


def test_minaris_names_of_the_flags_and_no_timeouts_will_do() -> None:
    given = columns()
    given["terminations"] = given.pop("terminals")
    del given["timeouts"]
    assert read(given).lengths.tolist() == [3, 2]


def test_actions_beyond_the_bounds_are_counted_and_told() -> None:
    given = columns(actions=np.array([[-2.0], [4.0], [4.0002], [9.0], [-5.0], [0.0]]))
    found = read(given | {"terminals": np.ones(6)})
    assert found.notes == (
        "data: 2 of 6 actions (33.3%) lie beyond the environment's bounds, as far as 9 where 4 is allowed; they are taken at the "
        "bound, as the environment itself would take them",
    )
    assert found.action[:, 0].tolist() == pytest.approx([-1, 1, 1, 1, -1, -1 / 3])


@pytest.mark.parametrize(
    ("actions", "wanted"),
    [
        (np.linspace(-1, 1, 6)[:, None], spaces.Box(-1, 1, (1,), np.float32)),
        (np.linspace(0, 5, 6), spaces.Box(0, 5, (1,), np.float32)),
        (np.array([0, 2, 1, 0, 0, 0]), spaces.Discrete(3)),
        (np.array([True, False] * 3), spaces.Discrete(2)),
        (np.array([[0, 2]] * 6), spaces.MultiDiscrete([1, 3])),
    ],
)
def test_spaces_that_columns_say_of_themselves(actions: Any, wanted: Any) -> None:
    found = dataset.origin(columns(actions=actions))
    assert found.action_space == wanted
    assert found.observation_space == SEEN
    images = np.zeros((6, 4, 4, 3), np.uint8)
    assert dataset.origin(columns(observations=images)).observation_space == spaces.Box(0, 255, (4, 4, 3), np.uint8)
    own = columns(action_space=ACTS, observation_space=SEEN, env="Pendulum-v1")
    assert dataset.origin(own)[1:] == ("Pendulum-v1", SEEN, ACTS)


def test_choices_are_read_as_whole_numbers() -> None:
    assert read(columns(actions=np.array([[0], [2], [1], [0], [0], [1]])), acts=spaces.Discrete(3)).action.tolist() == [
        0,
        2,
        1,
        0,
    ]
    with pytest.raises(Fault, match="actions are not all in"):
        read(columns(actions=np.array([0, 3, 1, 0, 0, 1])), acts=spaces.Discrete(3))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"rewards": np.arange(5.0)}, "observations has 6 rows; with 5 rewards it must have as many"),
        ({"rewards": np.array([0, 1, np.nan, 3, 4, 5])}, "rewards[2] is nan; it must be finite in float32"),
        ({"rewards": np.array([0, 1, 2, 1e39, 4, 5])}, "rewards[3] is 1e+39; it must be finite in float32"),
        ({"rewards": np.zeros((6, 2, 1))}, "rewards must be one number a step, it has the shape (6, 2, 1)"),
        ({"terminals": np.array([0, 0, 2, 0, 0, 0])}, "terminals must be 0 or 1"),
        ({"observations": np.full((6, 2), np.inf)}, "observation[0, 0] is inf"),
        ({"observations": np.zeros((6, 3))}, "observations are rows of the shape (3,); the environment's have (2,)"),
        ({"actions": np.array(["a"] * 6)}, "actions must be an array of numbers, it is <U1"),
        ({"actions": np.zeros((6, 2))}, "actions are rows of the shape (2,); the environment's have (1,)"),
        ({"rewards": np.zeros(0), "observations": np.zeros((0, 2)), "actions": np.zeros((0, 1)), "terminals": [], "timeouts": []},
         "there are no steps"),
        ({"reward": np.zeros(6)}, "'reward' is not a column; allowed: observations, actions, rewards, terminals, terminations"),
        ({"observations": [[1, 2], [3]] * 3}, "observations must be an array of numbers"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_column(more: dict[str, Any], told: str) -> None:
    with pytest.raises(Fault) as fault:
        read(columns() | more)
    assert str(fault.value).startswith(f"data: {told}"), fault.value
    assert "\n" not in str(fault.value)


def test_a_missing_column_is_named() -> None:
    given = columns()
    del given["terminals"]
    with pytest.raises(Fault, match="the column terminals is missing; there must be observations, actions, rewards, terminals"):
        read(given)


class Bomb:
    def __reduce__(self) -> Any:
        return (print, ("unpickled",))


def test_nothing_is_unpickled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "log.npz"
    np.savez(file, **columns(rewards=np.array([Bomb()] * 6, object)))
    with pytest.raises(Fault, match="rewards must be numbers, it is object"):
        read(file)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(Fault, match="is damaged"):
        read(tmp_path / "raw.npz")
    assert "unpickled" not in capsys.readouterr().out
    (tmp_path / "log.pkl").write_bytes(b"")
    with pytest.raises(
        Fault, match=r"not a file of columns; allowed: a folder in Minari's format, or a file .npz or .hdf5 or .h5"
    ):
        read(tmp_path / "log.pkl")


def test_a_file_that_declares_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    """A header of 8 TB in a file of a kilobyte; a file that is cut at any place."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12,)})
    file = tmp_path / "log.npz"
    np.savez(file, **columns())
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(tmp_path / "lies.npz", "w") as new:
        for name in old.namelist():
            new.writestr(name, header.getvalue() if name == "rewards.npy" else old.read(name))
    with pytest.raises(Fault, match="rewards declares more numbers than there are in this file"):
        read(tmp_path / "lies.npz")
    whole, hdf5 = file.read_bytes(), stored(columns(), tmp_path, "hdf5").read_bytes()
    for i in range(1, 12):
        for kind, data in (("npz", whole), ("hdf5", hdf5)):
            cut = tmp_path / f"cut.{kind}"
            cut.write_bytes(data[: len(data) * i // 12])
            with pytest.raises(Fault, match=r"^data: "):
                read(cut)


def test_images_stored_as_jpeg_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    seen = spaces.Box(0, 255, (32, 32, 3), np.uint8)
    frames = [np.random.default_rng(i).integers(0, 255, (32, 32, 3)).astype(np.uint8) for i in range(3)]
    part = EpisodeBuffer(None, 0, None, frames, [np.zeros(1, np.float32)] * 2, [1.0] * 2, [False] * 2, [False, True])
    with pytest.warns(UserWarning, match="is set to None"):
        minari.create_dataset_from_buffers("x-v0", [part], observation_space=seen, action_space=ACTS)
    with pytest.raises(
        Fault, match="observations are images stored as JPEG, which are not decoded; write them again with jpeg_encod"
    ):
        read("x-v0", seen)


def test_a_dataset_says_where_it_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gym.make("Pendulum-v1")
    part = EpisodeBuffer(None, 0, None, np.zeros((2, 3), np.float32), np.zeros((1, 1), np.float32), [1.0], [False], [True])
    with pytest.warns(UserWarning, match="is set to None"):
        minari.create_dataset_from_buffers("here/there-v0", [part], env="Pendulum-v1")
    assert dataset.origin("here/there-v0") == ("here/there-v0", "Pendulum-v1", env.observation_space, env.action_space)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Discrete(3, start=-1), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4), spaces.Box(-1, 2, (2, 3), np.float32),
        spaces.Dict({"a": spaces.Tuple((spaces.Discrete(2), spaces.Box(0, 255, (2,), np.uint8)))}),
    ],
)  # fmt: skip
def test_spaces_go_there_and_back_as_minari_writes_them(space: spaces.Space[Any]) -> None:
    import json

    from minari.serialization import serialize_space

    from thespis.data import minari

    assert minari.parsed(json.loads(serialize_space(space))) == space
    assert minari.written(space) == json.loads(serialize_space(space))
    with pytest.raises(Fault, match="a space is"):
        minari.parsed({"type": "Text"})
    with pytest.raises(Fault, match="a space is damaged"):
        minari.parsed({"type": "Box", "dtype": "float32", "shape": [2], "low": [0], "high": [1]})
