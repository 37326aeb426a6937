"""The rules that RLDP is compared with, and its table."""

import json
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

import thespis
from thespis.studies import rldp


def test_rules_act_as_they_say() -> None:
    env = gym.make("thespis/PrivateTuning-v0", epsilon=8.0).unwrapped
    env.reset(seed=1)
    obs = env.step(rldp.clip(0.3))[0]
    assert 10 ** obs[0] == pytest.approx(0.3, rel=1e-5)
    assert obs[15] == pytest.approx(4 / 40)
    after = rldp.quantile(obs)  # where over half is clipped, a threshold rises: by exp(0.8 (part - 1/2))
    np.testing.assert_allclose((after - rldp.clip(0.3))[:4] * np.log(10), 0.8 * (obs[4:8] - 0.5), atol=1e-5)
    assert rldp.rules(None, 0)["linear"](obs)[0] == pytest.approx(float(rldp.clip(0.9)[0]))


def test_each_rule_tunes_on_the_same_texts_within_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"updates": 4, "records": 256, "batch": 8, "canaries": 2}
    gym.register("thespis/SmallTuning-v0", "thespis.worlds.private_tuning:PrivateTuning", kwargs=small)
    monkeypatch.setattr(rldp, "ENV", "thespis/SmallTuning-v0")
    monkeypatch.setattr(thespis, "load", lambda run: SimpleNamespace(act=lambda obs: rldp.clip(1.0)))
    rldp.tune(tmp_path, 0, "nowhere", 2.0, sets=1)
    told = {row["arm"]: row for row in rldp.rows(tmp_path / "tuned.jsonl")}
    assert told["rldp"] == told["fixed 1.0"] | {"arm": "rldp"}
    different = {row["perplexity"] for row in told.values()}
    assert len(different) == len(told) - 3  # in one decision: "quantile" and "linear" too begin at 1
    assert max(row["epsilon"] for row in told.values()) <= 2


def test_the_table_takes_the_best_fixed_threshold_and_what_is_reached_at_24_updates(tmp_path: Path) -> None:
    last = {"fixed 0.1": 12.0, "fixed 0.3": 11.0, "rldp": 10.0}
    for epsilon in ("2", "8"):
        (tmp_path / f"at_{epsilon}").mkdir()
        rows = [
            {"arm": arm, "perplexity": p + i, "exposure": 1.0, "epsilon": 1.9 + i / 100, "curve": [[20, 9.9], [28, 5.0], [40, p]]}
            for arm, p in last.items()
            for i in (0, 1)
        ]
        (tmp_path / f"at_{epsilon}" / "tuned.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = rldp.table({"at_2": tmp_path / "at_2", "at_8": tmp_path / "at_8"})
    assert found["8, best fixed"]["perplexity"] == 11.5
    assert found["2, rldp"] == {"perplexity": 10.5, "exposure": 1.0, "epsilon": 1.91, "updates": 40.0, "reached": 9.9 / 11.0}
