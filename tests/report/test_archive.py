"""The map of an archive: which cell is where, what is empty, and runs without one."""

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.torch import save_file

from thespis import ops
from thespis.report import archive


def test_each_place_has_the_fitness_of_its_cell(tmp_path):
    (tmp_path / "policy").mkdir()
    a = ops.archive.empty(ops.archive.grid((2, 2)), {"g": torch.zeros(1)})
    a, _ = ops.archive.insert(a, {"g": torch.zeros(2)}, torch.tensor([3.0, 7.0]), torch.tensor([[-0.5, 0.5], [0.5, 0.5]]))
    save_file({"centroids": a.centroids, "fitness": a.fitness}, tmp_path / "policy/last.safetensors")
    found = archive.read(tmp_path)
    np.testing.assert_array_equal(found["fitness"], [np.nan, 3, np.nan, 7])
    axes = Figure().add_subplot()
    picture = archive.draw(axes, **found)
    shown = np.ma.filled(picture.get_array().astype(float), np.nan)  # rows from the bottom
    assert np.unique(shown[: archive.SIDE // 2]).tolist()[:1] != [3.0]
    assert np.isnan(shown[: archive.SIDE // 2]).all()
    assert (shown[archive.SIDE // 2 :, : archive.SIDE // 2] == 3).all()
    assert (shown[archive.SIDE // 2 :, archive.SIDE // 2 :] == 7).all()
    np.testing.assert_allclose(picture.get_extent(), (-1, 1, -1, 1))
    assert "2 of 4 cells" in archive.card(tmp_path)


def test_a_run_without_an_archive_has_no_card(tmp_path):
    assert archive.card(tmp_path) == ""
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy/last.safetensors").write_bytes(b"torn")
    assert archive.card(tmp_path) == ""
    save_file({"w0": torch.zeros(2)}, tmp_path / "policy/last.safetensors")
    assert archive.card(tmp_path) == ""
