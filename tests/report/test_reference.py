"""Stored curves: which one stands beside a run, how much of it, and that it is what the bench measured."""

import json
import statistics
import tomllib
from pathlib import Path

import pytest

from thespis.report import curve, panels, reference

BENCH = Path(__file__).parents[2] / "bench"
STORED = json.loads(reference.FILE.read_text())["references"]


def config(env="Cart-v0", algo="sac", **settings):
    usual = {"lr": 3e-4, "warmup": None, "tau": 0.1}
    return {"algo": algo, "algo_config": usual | settings, "algo_defaults": usual, "run": {"env": env, "seed": 0, "steps": 100}}


@pytest.fixture
def stored(monkeypatch, tmp_path):
    rows = [
        {"row": "a", "says": "plain, 3 seeds", "settings": {}, "mean": [0, 1, 4]},
        {"row": "b", "says": "quick, 3 seeds", "settings": {"lr": 1e-3, "warmup": 9}, "mean": [0, 2, 8]},
    ]
    same = {"env": "Cart-v0", "algo": "sac", "steps": [0, 10, 20], "low": [-1, 0, 0], "high": [1, 9, 9]}
    monkeypatch.setattr(reference, "FILE", tmp_path / "references.json")
    reference.FILE.write_text(json.dumps({"references": [r | same for r in rows]}))
    reference._stored.cache_clear()
    yield
    reference._stored.cache_clear()


@pytest.mark.usefixtures("stored")
def test_the_one_with_the_most_like_settings_is_taken_up_to_the_runs_last_step():
    whole = reference.Reference("plain, 3 seeds", [0, 10, 20], [0, 1, 4], [-1, 0, 0], [1, 9, 9])
    assert reference.reference(config(), 100) == whole
    found = reference.reference(config(lr=1e-3, warmup=8, tau=0.2), 15)
    assert found == reference.Reference("quick, 3 seeds", [0, 10, 15], [0, 2, 5], [-1, 0, 0], [1, 9, 9])
    assert reference.reference(config(), 0) is None
    assert reference.reference(config(env="Other-v0"), 100) is None
    assert reference.reference(config(algo="td3"), 100) is None


@pytest.mark.usefixtures("stored")
def test_it_is_drawn_and_named(tmp_path):
    rows = [{"step": s, "eval/return_mean": float(s), "eval/return_std": 0.0} for s in (0, 10, 20)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "config.json").write_text(json.dumps(config()))
    (axes,) = curve.figure(rows, "a run", reference.reference(config(), 20)).axes
    (line,) = [x for x in axes.lines if x.get_label() == "reference: plain, 3 seeds"]
    assert list(line.get_ydata()) == [0, 1, 4]
    panel = panels.panels([panels.read(tmp_path)])[0]
    assert [(x.name, list(x.y)) for x in panel.lines][1] == ("reference", [0, 1, 4])
    assert "Reference: plain, 3 seeds" in panel.says
    plain = curve.curve(tmp_path).stat().st_size
    (tmp_path / "config.json").unlink()
    assert curve.curve(tmp_path).stat().st_size < plain  # no config: no reference, and a picture all the same


@pytest.mark.parametrize("row", STORED, ids=lambda r: r["row"])
def test_what_is_stored_is_what_was_measured(row):
    bench = tomllib.loads((BENCH / "rows" / f"{row['row']}.toml").read_text())
    place = bench["curves"][bench["reference"]].get("raw", f"{row['row']}/{bench['reference']}")
    found = {}
    files = sorted((BENCH / "results/raw").glob(f"{place}-[0-9]*.jsonl"))
    for line in (json.loads(line) for file in files for line in file.read_text().splitlines()):
        found.setdefault(line["step"], []).append(line["return_mean"])
    assert row["says"].endswith(f", {len(files)} seeds")
    assert (row["env"], row["algo"]) == (bench["env"], bench["curves"][bench["reference"]]["algo"])
    for i, step in enumerate(row["steps"]):
        seen = found[step]
        assert len(seen) == len(files)
        assert row["mean"][i] == pytest.approx(statistics.mean(seen), abs=0.051)
        assert (row["low"][i], row["high"][i]) == (pytest.approx(min(seen), abs=0.051), pytest.approx(max(seen), abs=0.051))
