"""The notebooks run from top to bottom, with a tiny budget, and their links lead somewhere."""

import json
import re
from pathlib import Path

import pytest

from .test_docs import HOUSE

NOTEBOOKS = sorted((HOUSE / "docs/notebooks").glob("*.ipynb"))
BUDGET = "steps, warmup, episodes = 5_000, 1_000, 10"
each = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda p: p.name)


def cells(file: Path, kind: str) -> list[str]:
    book = json.loads(file.read_text())
    assert book["nbformat"] == 4
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == kind]


@each
def test_its_cells_run_in_order(file, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    code = cells(file, "code")
    assert BUDGET in code[0]
    code[0] = code[0].replace(BUDGET, "steps, warmup, episodes = 120, 100, 2")
    names = {"__name__": "__main__"}
    for n, text in enumerate(code):
        exec(compile(text, f"{file.name}, code cell {n + 1}", "exec"), names)
    assert names["run"].finished
    assert [step for step, _ in names["curve"]] == [0, 120]
    assert names["action"][0] == pytest.approx(names["policy"].act(names["obs"]), abs=1e-4)


@each
def test_it_is_saved_without_outputs_and_its_links_exist(file):
    book = json.loads(file.read_text())
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book["cells"])
    for target in re.findall(r"\]\(([^)]+)\)", "\n".join(cells(file, "markdown"))):
        assert (file.parent / target.partition("#")[0]).is_file(), target
