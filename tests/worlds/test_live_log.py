"""The world of live streams fitted to a log that it made itself: its numbers come back. What is wrong with a log, in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from thespis import cli
from thespis.worlds import feeds, live_log
from thespis.worlds.live_feed import LiveFeed, opened

COUNTED = "user_id,time_ms,play_time_ms,is_live_shown,is_live_click,live_play_time_ms,live_kind"


def test_the_numbers_of_the_world_come_back(tmp_path: Path) -> None:
    """Within what docs/feeds.md says, of 60,000 requests of 200 users."""
    world = LiveFeed(users=200)
    log = feeds.log(world, 60_000, seed=3)
    columns = {k: x.astype(str if k in live_log.TEXTS else float) for k, x in live_log.table(log).items()}
    order = np.lexsort((columns["time_ms"], columns["user_id"]))
    found, about = live_log.fit({k: x[order] for k, x in columns.items()})
    of = world.of
    assert about["users"] == 200
    assert about["requests"] == len(log["rewards"])
    assert about["shown"] == log["actions"].sum()
    assert found.stay == pytest.approx(of.stay, rel=0.05)
    for name in ("annoyed", "weary", "displaced", "bored"):
        assert getattr(found, name) == pytest.approx(getattr(of, name), rel=0.3), name
    np.testing.assert_allclose(found.spread, of.spread, rtol=0.02)
    kinds = found.live.argsort()
    np.testing.assert_allclose(found.live[kinds], of.live, rtol=0.15)
    np.testing.assert_allclose(found.pull[kinds], of.pull - of.pull.mean(), atol=0.2)
    np.testing.assert_allclose(found.share, of.share, atol=0.01)
    assert found.affinity.mean() == pytest.approx(of.affinity.mean() + of.pull.mean(), abs=0.15)
    assert found.affinity.std() == pytest.approx(of.affinity.std(), abs=0.15)
    assert found.minutes.mean() == pytest.approx(of.minutes.mean(), rel=0.05)


def test_commands_from_a_log_to_a_world(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = tmp_path / "log.csv", tmp_path / "world.json"
    made = ["log", "thespis/LiveFeed-v0", "--out", str(log), "--steps", "9000", "--env-args", "users=30"]
    assert cli.main(made) == 0
    assert log.read_text().partition("\n")[0] == COUNTED
    assert cli.main(["fit-world", "feed", str(log), "--out", str(out)]) == 0
    assert "30 users" in capsys.readouterr().out
    assert json.loads(out.read_text())["fitted_to"]["users"] == 30
    world = LiveFeed(file=str(out))
    np.testing.assert_array_equal(world.of.minutes, opened(out).minutes)
    assert world.reset(seed=0)[0].shape == (6,)
    assert cli.main(["fit-world", "feed", str(log), "--out", str(out)]) == 2
    assert f"out: {out} exists; give another" in capsys.readouterr().err
    out.write_text(out.read_text().replace('"stay"', '"stays"'))
    assert cli.main(["log", "thespis/LiveFeed-v0", "--out", str(tmp_path / "a.npz"), "--env-args", f"file={out}"]) == 2
    assert "is no world file: KeyError 'stay'" in capsys.readouterr().err
    assert cli.main(["log", "thespis/ShortVideo-v0", "--out", str(tmp_path / "a.csv")]) == 2
    assert "allowed: a file .npz, or .csv of thespis/LiveFeed-v0" in capsys.readouterr().err


GOOD = "a,0,1000,1,1,5000,x"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (COUNTED.replace(",time_ms", "") + "\n", "the column time_ms is missing; there must be user_id, time_ms,"),
        (COUNTED + "\n", "has no rows"),
        (f"{COUNTED}\n{GOOD}\na,0,1000,1,1", "row 2 has 5 values; there are 7 columns"),
        (f"{COUNTED}\n{GOOD.replace('1000', 'long')}", "row 1: play_time_ms is 'long'; allowed: a number of 0 or more"),
        (f"{COUNTED}\n{GOOD}\n{GOOD.replace('1000', '-1')}", "row 2: play_time_ms is '-1'; allowed: a number of 0 or more"),
        (f"{COUNTED}\n{GOOD.replace('1000', 'nan')}", "row 1: play_time_ms is 'nan'; allowed: a number of 0 or more"),
        (f"{COUNTED}\n{GOOD.replace('1,1,', '2,1,')}", "row 1: is_live_shown is '2'; allowed: 0 or 1"),
        (f"{COUNTED}\n{GOOD.replace('1,1,', '0,1,')}", "row 1: is_live_click is 1 where is_live_shown is 0"),
        (f"{COUNTED}\n{GOOD.replace('5000', '0')}", "row 1: live_play_time_ms is at odds with is_live_click"),
        (f"{COUNTED}\n{GOOD}", "too little to fit; of kind 'x' 1 lives were watched, 10 are needed of each kind"),
    ],
)
def test_a_fault_of_a_log_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str) -> None:
    log = tmp_path / "log.csv"
    log.write_text(text)
    assert cli.main(["fit-world", "feed", str(log), "--out", str(tmp_path / "world.json")]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == [log]


def test_a_log_in_parquet(tmp_path: Path) -> None:
    """As the .csv of the same rows."""
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = live_log.table(feeds.log(LiveFeed(users=5), 200))
    parquet.write_table(arrow.table(rows), tmp_path / "log.parquet")
    lines = [live_log.COLUMNS, *zip(*(x.tolist() for x in rows.values()), strict=True)]
    (tmp_path / "log.csv").write_text("\n".join(",".join(map(str, line)) for line in lines))
    one, two = (live_log.read(tmp_path / f"log.{kind}") for kind in ("parquet", "csv"))
    for name in live_log.COLUMNS:
        np.testing.assert_array_equal(one[name], two[name])
