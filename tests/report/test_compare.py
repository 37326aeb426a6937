"""Comparing runs: what a group is, at which step, on which scale, and what is refused."""

import csv
import json
import re

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

import thespis
from thespis import cli
from thespis.core import Fault
from thespis.report.compare import compare


def write(path, algo="sac", seed=0, env="Hopper-v5", last=1.0, steps=(0, 100, 200), lr=3e-4, **run):
    path.mkdir(parents=True)
    about = {"algo": algo, "algo_config": {"lr": lr}, "run": {"env": env, "seed": seed, "steps": 200} | run}
    (path / "config.json").write_text(json.dumps(about))
    rows = [{"step": s, "eval/return_mean": last * s / max(steps)} for s in steps]
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


@pytest.fixture
def two(tmp_path):
    for seed in range(4):
        write(tmp_path / "runs" / "deep" / f"sac-{seed}", seed=seed, last=seed + 1)
        write(tmp_path / "runs" / f"td3-{seed}", "td3", seed, last=seed + 0.5)
    return tmp_path / "runs"


def test_groups_of_seeds_wherever_they_lie(two):
    found = compare([two])
    assert [(r["group"], r["seeds"], r["iqm"], r["step"]) for r in found.table] == [("sac", 4, 2.5, 200), ("td3", 4, 2.0, 200)]
    (row,) = found.improvements
    wins = sum(i + 1 > j + 0.5 for i in range(4) for j in range(4)) / 16
    assert (row["group"], row["other"], row["probability"]) == ("sac", "td3", wins)
    assert row["interval95"][0] <= wins <= row["interval95"][1]
    assert (found.axis, found.scale) == ("return of an evaluation", None)
    assert compare([two, two / "td3-0"]).table == found.table  # a run named twice is one run


def test_a_group_is_algorithm_and_configuration_but_not_length_or_device(tmp_path):
    for seed in (0, 1):
        write(tmp_path / f"a{seed}", seed=seed, steps=(0, 100), device="cpu")
        write(tmp_path / f"b{seed}", seed=seed, lr=1e-3)
        write(tmp_path / f"c{seed}", seed=seed, num_envs=4)
    write(tmp_path / "a2", seed=2, device="cuda")
    found = compare([tmp_path])
    assert [(g.name, g.seeds) for g in found.groups] == [
        ("sac, lr=0.0003, num_envs=1", 3), ("sac, lr=0.001, num_envs=1", 2), ("sac, lr=0.0003, num_envs=4", 2),
    ]  # fmt: skip
    assert found.steps == [0, 100]
    assert "compared at step 100, the last at which every run was evaluated" in found.notes


def about(path, **more):
    """`write` with more in config.json."""
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


def test_a_file_is_one_algorithm_wherever_it_lies_and_another_when_it_was_edited(tmp_path):
    for seed, (path, digest) in enumerate([("mean.py", "a1" * 32), ("/home/me/mean.py", "a1" * 32), ("mean.py", "b2" * 32)]):
        about(write(tmp_path / f"run-{seed}", path, seed), algo_sha256=digest)
    found = compare([tmp_path])
    assert [(g.name, g.seeds) for g in found.groups] == [("mean #1", 2), ("mean #2", 1)]
    (note,) = [n for n in found.notes if "sha256" in n]
    assert note == (
        "the file of mean was not the same in all runs, so they are separate groups: "
        "sha256 a1a1a1a1 in run-0, run-1; b2b2b2b2 in run-2"
    )
    about(tmp_path / "run-2", algo_sha256="a1" * 32)
    found = compare([tmp_path])
    assert [(g.name, g.seeds) for g in found.groups] == [("mean", 3)]
    assert not any("sha256" in n for n in found.notes)


def test_what_bears_on_learning_makes_a_group_and_what_does_not_is_left_out(tmp_path):
    defaults = {"num_envs": 1, "normalise": False, "threads": 0}
    for seed, run in enumerate([{}, {"threads": 2, "wandb_tags": ["x"]}, {"normalise": True}]):
        about(write(tmp_path / f"run-{seed}", seed=seed, **defaults | run), run_defaults=defaults)
    write(tmp_path / "old", seed=3)  # of a version that did not have that option
    assert [(g.name, g.seeds) for g in compare([tmp_path]).groups] == [("sac, normalise=False", 3), ("sac, normalise=True", 1)]


def test_a_run_that_was_changed_or_began_from_another_is_a_group_of_its_own(tmp_path):
    for seed in range(4):
        write(tmp_path / f"run-{seed}", seed=seed)
    about(tmp_path / "run-1", changes=[{"step": 100, "fields": {"eval_every": [100, 50]}}])
    about(tmp_path / "run-2", changes=[{"step": 100, "fields": {"lr": [3e-4, 1e-4]}}])
    about(tmp_path / "run-3", start={"run": "runs/old", "step": 7})
    assert [(g.name, g.seeds) for g in compare([tmp_path]).groups] == [
        ("sac", 2), ("sac, changed=lr=0.0001 at 100", 1), ("sac, start=runs/old", 1),
    ]  # fmt: skip


def test_one_schedule_over_runs_of_two_lengths_is_two_things(tmp_path):
    for i, length in enumerate([100, 200, 200]):
        about(write(tmp_path / f"run-{i}", seed=i, lr="linear:0.001"), schedule_updates=length)
    assert [(g.name, g.seeds) for g in compare([tmp_path]).groups] == [
        ("sac, schedule_updates=100", 1), ("sac, schedule_updates=200", 2),
    ]  # fmt: skip


def test_the_table_has_environments_and_single_seeds(tmp_path):
    for env, size in (("Hopper-v5", 10.0), ("Ant-v5", 1000.0)):
        for seed in (3, 5, 11):
            write(tmp_path / f"sac-{env}-{seed}", "sac", seed, env, last=size * seed)
        write(tmp_path / f"td3-{env}", "td3", 5, env, last=0.0)
    compare([tmp_path]).csv(tmp_path / "c.csv")
    rows = list(csv.DictReader((tmp_path / "c.csv").open()))
    assert list(rows[0]) == ["group", "environment", "step", "iqm", "low95", "high95", "seeds", "seed 3", "seed 5", "seed 11"]
    last = {(r["group"], r["environment"]): r for r in rows if r["step"] == "200"}
    assert list(last) == [(g, e) for g in ("sac", "td3") for e in ("Ant-v5", "Hopper-v5", "all")]
    sac, td3, both = last["sac", "Ant-v5"], last["td3", "Hopper-v5"], last["sac", "all"]
    assert [float(sac[f"seed {n}"]) for n in (3, 5, 11)] == pytest.approx([3 / 11, 5 / 11, 1])
    assert float(sac["iqm"]) == pytest.approx((3 + 5 + 11) / 33)
    assert [td3[f"seed {n}"] for n in (3, 5, 11)] == ["", "0.0", ""]
    assert (td3["low95"], td3["seeds"], both["seed 3"], both["seeds"]) == ("", "1", "", "3")
    compare([tmp_path / "sac-Ant-v5-3", tmp_path / "sac-Ant-v5-5"]).csv(tmp_path / "one.csv")
    one = [r for r in csv.DictReader((tmp_path / "one.csv").open()) if r["step"] == "200"]
    assert [(r["environment"], r["seed 3"], r["seed 5"]) for r in one] == [("Ant-v5", "3000.0", "5000.0")]


def test_one_seed_shows_its_curve_and_concludes_nothing(two, tmp_path):
    write(two / "redq-0", "redq")
    found = compare([two])
    row = next(r for r in found.table if r["seeds"] == 1)
    assert (row["group"], row["interval95"]) == ("redq", None)
    assert [(r["group"], r["other"]) for r in found.improvements] == [("sac", "td3")]
    assert any("one seed" in n and "redq" in n for n in found.notes)
    assert any("too narrow" in n and "sac; td3" in n for n in found.notes)
    found.csv(tmp_path / "c.csv")
    lines = [r for r in csv.DictReader((tmp_path / "c.csv").open()) if r["group"] == "redq"]
    assert [(r["step"], r["iqm"], r["low95"], r["high95"], r["seeds"]) for r in lines] == [
        ("0", "0.0", "", "", "1"), ("100", "0.5", "", "", "1"), ("200", "1.0", "", "", "1"),
    ]  # fmt: skip
    alone = compare([two / "redq-0"])
    assert alone.improvements == []
    alone.picture(tmp_path / "alone.png")
    assert (tmp_path / "alone.png").stat().st_size > 5000


def test_the_picture_names_its_environment_and_is_not_cut_off(two, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **_: (drawn.append(self), file.touch()))
    write(two / "long", "sac", 9, lr=0.123, num_envs=12345)
    compare([two]).picture(tmp_path / "a.png")
    compare([two / "td3-0"]).picture(tmp_path / "b.png")
    titles = [[a.get_title(loc="left") for a in figure.axes] for figure in drawn]
    assert titles[0][0] == "Hopper-v5\ninterquartile mean, 95% interval"
    assert titles[0][1:] == ["At step 200", "Performance profile", "Probability of improvement"]
    assert titles[1] == ["Hopper-v5\none seed each: no interval"]
    for figure in drawn:
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        assert box.x0 >= 0
        assert box.x1 <= figure.get_figwidth()
        sizes = [text.get_fontsize() / 72 / figure.get_figwidth() for text in figure.findobj(Text) if text.get_text()]
        assert min(sizes) * 400 > 9  # pixels, where it is shown 400 wide


def test_several_environments_are_normalised_and_it_is_said_how(tmp_path):
    for seed in (0, 1, 2):
        for env, size in (("Hopper-v5", 10.0), ("Ant-v5", 1000.0)):
            write(tmp_path / f"sac-{env}-{seed}", "sac", seed, env, last=size * (seed + 2))
            write(tmp_path / f"td3-{env}-{seed}", "td3", seed, env, last=size * (seed + 1))
    write(tmp_path / "sac-only", "sac", env="Walker2d-v5")
    found = compare([tmp_path])
    assert found.scale == {"Ant-v5": (1000, 4000), "Hopper-v5": (10, 40)}
    assert found.table[0]["scores"] == {e: pytest.approx([1 / 3, 2 / 3, 1]) for e in ("Ant-v5", "Hopper-v5")}
    assert found.table[0]["iqm"] == pytest.approx(2 / 3)
    assert any("min-max" in n for n in found.notes)
    assert "left out, as not every group was run on it: Walker2d-v5" in found.notes
    known = tmp_path / "known.json"
    known.write_text('{"Ant-v5": [0, 10000], "Hopper-v5": [0, 100]}')
    assert compare([tmp_path], str(known)).table[1]["iqm"] == pytest.approx(0.2)
    for text, match in [
        ("{", "has no"),
        ('{"Ant-v5": [0, 1]}', "for 'Hopper-v5'"),
        ('{"Ant-v5": [1, 1], "Hopper-v5": [0, 1]}', "Ant"),
    ]:
        known.write_text(text)
        with pytest.raises(Fault, match=match):
            compare([tmp_path], str(known))
    with pytest.raises(Fault, match="normalise is 'minmax'; allowed: min-max, or a JSON file"):
        compare([tmp_path], "minmax")


def test_what_cannot_be_compared_is_told(tmp_path):
    with pytest.raises(Fault, match="is not a directory"):
        compare([tmp_path / "absent"])
    with pytest.raises(Fault, match="holds none"):
        compare([tmp_path])
    write(tmp_path / "a", seed=1)
    with pytest.raises(Fault, match="so min-max has no scale"):
        compare([tmp_path], "min-max")
    write(tmp_path / "b", seed=1)
    with pytest.raises(Fault, match="are one seed of one thing"):
        compare([tmp_path])
    write(tmp_path / "c", "td3", env="Ant-v5")
    with pytest.raises(Fault, match="no environment has runs of every group: sac on Hopper-v5; td3 on Ant-v5"):
        compare([tmp_path / "a", tmp_path / "c"])
    write(tmp_path / "d", seed=2, steps=(50, 150))
    with pytest.raises(Fault, match="no step at which every run was evaluated"):
        compare([tmp_path / "a", tmp_path / "d"])
    (tmp_path / "d" / "metrics.jsonl").write_text("")
    with pytest.raises(Fault, match="no run that is named has an evaluation yet"):
        compare([tmp_path / "d"])


def test_from_the_front(two, capsys):
    assert cli.main(["compare", str(two), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == thespis.compare(two)
    assert told["picture"] == str(two / "compare" / "compare.png")
    assert [p.name for p in sorted((two / "compare").iterdir())] == ["compare.csv", "compare.png"]
    assert thespis.compare(two / "td3-0", two / "td3-1")["csv"] == str(two / "compare" / "compare.csv")
    assert cli.main(["compare", str(two)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"sac +4 +2.5 +[\d.]+ to [\d.]+ +2.5", out)
    assert "P(sac > td3) = 0.62" in out
    assert cli.main(["compare"]) == 2
    assert cli.main(["compare", str(two / "absent")]) == 2
    assert capsys.readouterr().err.count("\n") == 2
