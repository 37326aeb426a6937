"""Levels on a run's page: which are shown, and what is drawn of one."""

import json

import numpy as np
from matplotlib.figure import Figure
from safetensors.numpy import save_file

from thespis.report import levels


def saved(folder, score, given, ns):
    (folder / "checkpoints" / "90").mkdir(parents=True)
    (folder / "checkpoints" / "200").mkdir()
    rows = np.arange(len(score))[:, None] * np.ones(len(ns)) % 4
    tensors = {"state.levels.rows": rows, "state.levels.score": np.array(score), "state.levels.given": np.array(float(given))}
    save_file({k: x.astype(np.float32) for k, x in tensors.items()}, folder / "checkpoints" / "200" / "tensors.safetensors")
    (folder / "config.json").write_text(json.dumps({"levels": ns}))


def test_those_that_score_highest_come_first(tmp_path):
    saved(tmp_path, [0.2, 0.5, -1, 0.9], 2, [4, 4, 4, 4, 4])
    rows, score, data = levels.read(tmp_path)
    assert rows[:, 0].tolist() == [3, 1, 0]
    assert np.allclose(score, [0.9, 0.5, 0.2])
    assert data == 2
    text = levels.card(tmp_path)
    assert "3 scored" in text
    assert "from 0.9 down; 2 of all are data" in text


def test_only_squares_of_cells_are_drawn(tmp_path):
    assert [levels.side(ns) for ns in ([4] * 9, [4] * 9 + [9, 9], [4] * 9 + [8], [5, 4, 4, 4], [4, 4])] == [3, 3, 0, 0, 0]
    saved(tmp_path, [0.2], 0, [4, 5])
    assert levels.card(tmp_path) == ""
    assert levels.card(tmp_path / "none") == ""


def test_cells_and_places_are_where_they_are():
    axes = Figure().subplots()
    levels.draw(axes, np.array([0.0, 1, 2, 3, 1, 2]), 2)
    assert axes.images[0].get_array().tolist() == [[0, 1], [2, 3]]
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 0]], [[0, 1]]]
