"""Two runs held beside each other."""

import json

from safetensors.torch import load_file

from thespis.engine import checkpoint


def outcome(folder):
    """Every tensor of the last checkpoint and of the policies, and every row of metrics, clocks apart."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k not in ("time/seconds", "time/steps_per_second")} for row in rows]
    last = checkpoint.checkpoints(folder)[-1]
    return [load_file(f) for f in (last / "tensors.safetensors", *sorted((folder / "policy").glob("*.safetensors")))], rows


def assert_equal(folder, whole):
    (tensors, rows), (wanted, wanted_rows) = outcome(folder), outcome(whole)
    assert rows == wanted_rows
    for a, b in zip(tensors, wanted, strict=True):
        assert a.keys() == b.keys()
        assert [k for k in a if not a[k].equal(b[k])] == []
