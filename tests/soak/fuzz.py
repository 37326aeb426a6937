"""Mutates one file of a run or of a dataset COUNT times and loads it, in a process of its own: what crashes, crashes here.

python fuzz.py KIND FIRST COUNT SOUND WORK: prints {"outcomes": {...}, "wrong": [...], "grown": bytes} as JSON. SOUND holds run/
and data/; WORK/at says which mutation is under way. KIND may be "all": then it prints a line for each.
"""

import json
import random
import resource
import shutil
import signal
import struct
import sys
import traceback
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from safetensors.torch import load, save

import thespis
from thespis import api, envs, training
from thespis.core import Fault, leaves
from thespis.data import dataset
from thespis.engine import checkpoint, loop
from thespis.report import curve

# --------------------------------------------------------------------------------------------------------- mutations

NASTY = [
    None, True, -1, 0, 1.5, 10**9, 10**18, 2**63, 10**40, -(10**400), 1e308, "", "x", "../../etc/passwd", "/etc/passwd", "\0",
    "é" * 99, [], {}, [[]], {"a": {}}, [1] * 999, float("nan"), float("inf"), "NaN", "9" * 5000,
]  # fmt: skip
TEXTS = [
    b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"\xff\xfe", b"\xed\xa0\x80", b"\0", b"{", b"}", b"[", b'"', b",", b"[" * 30_000,
    b'{"a":' * 30_000, b"null", b"\n", b"\r", b"\\u0000", b"1", b"-",
]  # fmt: skip
SIZES = [0, 1, 7, 2**16, 2**31, 2**40, 2**53, 2**63 - 1, 2**64 - 1]


def of_bytes(data, rng):
    """Cut, flipped, doubled, overwritten."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        at, n = rng.randrange(len(data) + 1), rng.choice([1, 2, 8, 64, 1000])
        what = rng.randrange(9)
        if what <= 2 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif what == 3:
            del data[at:]
        elif what == 4:
            del data[at : at + n]
        elif what == 5:
            data[at:at] = data[at : at + n]
        elif what == 6:
            data[at : at + n] = rng.choice([b"\0", b"\xff", rng.randbytes(1)]) * n
        elif what == 7:
            data[at:at] = rng.choice(TEXTS)
        else:
            place = 0 if rng.random() < 0.5 else at
            data[place : place + 8] = struct.pack("<Q", rng.choice(SIZES))
    return bytes(data)


def of_json(value, rng):
    """Another value somewhere in it, or one less, or one more."""
    places, queue = [], [value]
    while queue:
        node = queue.pop()
        for key in list(node if isinstance(node, dict) else range(len(node)))[:50]:
            places.append((node, key))
            if isinstance(node[key], dict | list):
                queue.append(node[key])
    for _ in range(rng.choice([1, 1, 2])):
        node, key = rng.choice(places)
        what = rng.randrange(5)
        if what == 0 and key in (node if isinstance(node, dict) else range(len(node))):
            del node[key]
        elif what == 1 and isinstance(node, dict):
            node[rng.choice(["../..", "", "sha256", "step", "é", "-1", "00", "1" * 30])] = rng.choice(NASTY)
        elif isinstance(node, dict) or key < len(node):
            node[key] = rng.choice(NASTY) if what < 4 else nested(rng.choice([10, 900]))
    return value


def nested(depth):
    out = []
    for _ in range(depth):
        out = [out]
    return out


def of_tensors(data, rng):
    """Safetensors whose header says other than there is, or other tensors."""
    if rng.random() < 0.5:
        size = struct.unpack("<Q", data[:8])[0]
        header = of_json(json.loads(data[8 : 8 + size]), rng)
        for part in header.values():
            if isinstance(part, dict) and rng.random() < 0.1:
                part |= rng.choice(
                    [{"dtype": rng.choice(["F64", "I8", "BF16", "F8_E4M3", "U64", "C64"])}, {"shape": [2**40, 2**40]}]
                )
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + size :]
    tensors = load(data)
    name = rng.choice(sorted(tensors))
    x = tensors[name]
    what = rng.randrange(6)
    if what == 0:
        del tensors[name]
    elif what == 1:
        tensors[rng.choice(["../x", "", "extra"])] = x.clone()
    elif what == 2:
        tensors[name] = x.to(rng.choice([torch.float64, torch.int8, torch.bool, torch.bfloat16]))
    elif what == 3:
        tensors[name] = x.reshape(-1)[:-1].clone() if x.numel() else torch.zeros(3)
    elif what == 4:
        tensors[name] = torch.stack([x, x])
    elif x.is_floating_point():
        tensors[name] = torch.full_like(x, rng.choice([float("nan"), float("inf"), 1e30]))
    else:
        tensors[name] = (x.long() - 10**6).to(x.dtype)
    return save(tensors)


def sealed(value):
    """With the right checksum, as one has who means harm."""
    try:
        return value | {"sha256": checkpoint._seal(value)}
    except (TypeError, ValueError):
        return value


def text(value):
    return json.dumps(value).encode()


# ------------------------------------------------------------------------------------------------------------- kinds


def of_policy(run):
    policy = thespis.load(run)
    return [
        policy.act(np.array([0.1, 0.2, 0.3], np.float32)).tobytes(),
        checkpoint._checksum(leaves(policy.params)),
        policy.about,
    ]


def of_config(run):
    about, _, cfg, more, _ = api.open_run(run, None, None)
    return [{k: v for k, v in about.items() if k != "run"}, cfg, more]


def of_resume(run):
    """All that a resume brings back; nothing is trained."""
    found = []

    def held(self):
        ring, p = self.replay, self.progress
        ring = {
            "obs": torch.from_numpy(ring.obs),
            "action": torch.from_numpy(ring.action),
            "reward": torch.from_numpy(ring.reward),
            "ended": torch.from_numpy(ring.ended),
            "steps": torch.tensor(ring.steps),
        }
        found.append([checkpoint._checksum(leaves(self.stepper.state) | ring | self.collector.save()[1]), repr(p)])

    loop._Training.loop, training._draw = held, lambda folder: None
    thespis.resume(run, panel=False)
    return found[0]


def of_metrics(run):
    rows = curve.rows(run)
    curve.figure(rows, "x")
    of_resume(run)
    return rows


def of_data(folder):
    env = of_data.env = getattr(of_data, "env", None) or gym.make("Pendulum-v1")
    spaces = env.observation_space, env.action_space
    return dataset.read(str(folder), *spaces, envs.spaces.flatten, envs.spaces.unscale_action).digest()


KINDS = {  # what is mutated, and how it is read; where bytes alone are mutated, what a checksum covers must be as it was
    "config.json": ("run/config.json", of_config, False),
    "policy/*.json": ("run/policy/last.json", of_policy, True),
    "policy/*.safetensors": ("run/policy/last.safetensors", of_policy, True),
    "checkpoint.json": ("run/checkpoints/000000060/checkpoint.json", of_resume, True),
    "checkpoint tensors": ("run/checkpoints/000000060/tensors.safetensors", of_resume, True),
    "replay segment": ("run/replay/000000000.safetensors", of_resume, True),
    "metrics.jsonl": ("run/metrics.jsonl", of_metrics, False),
    "dataset metadata": ("data/metadata.json", of_data, False),
    "dataset HDF5": ("data/main_data.hdf5", of_data, False),
}


def mutate(kind, file, rng):
    """Changes the file; True where whatever carries a checksum was given the right one again."""
    data = file.read_bytes()
    if kind == "metrics.jsonl" and rng.random() < 0.5:
        lines = data.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        lines[at] = text(of_json(json.loads(lines[at]), rng)) + b"\n"
        file.write_bytes(b"".join(lines))
        return False
    if file.suffix in (".jsonl", ".hdf5") or rng.random() < 0.5:
        file.write_bytes(of_bytes(data, rng))
        return False
    if file.suffix == ".json":
        value = json.loads(data)
        value.pop("sha256", None)
        value = of_json(value, rng)
        file.write_bytes(text(sealed(value) if kind in ("policy/*.json", "checkpoint.json") else value))
        return True
    data = of_tensors(data, rng)
    file.write_bytes(data)
    if kind == "policy/*.safetensors":  # with a checksum of its own
        try:
            checkpoint.write_tensors(file, load(data))
        except Exception:
            return False
        return True
    about = (
        file.parents[1] / "checkpoints/000000060/checkpoint.json" if "replay" in file.parts else file.with_name("checkpoint.json")
    )
    value = json.loads(about.read_text())
    value.pop("sha256")
    if "replay" in file.parts:
        value["segments"]["0"]["sha256"] = checkpoint._digest(file)
    else:
        value["tensors"] = checkpoint._digest(file)
    about.write_bytes(text(sealed(value)))
    return True


def main(kind, first, count, sound, work):
    place, read, checked = KINDS[kind]
    top = place.partition("/")[0]
    here = work / top

    def afresh():
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(sound / top, here)

    def late(*_):
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    afresh()
    wanted = repr(read(here))
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes, wrong = {"as it was": 0, "another valid value": 0, "one Fault": 0}, []
    for i in range(first, first + count):
        (work / "at").write_text(str(i))
        rng = random.Random(f"{kind} {i}")
        afresh()
        resealed = mutate(kind, work / place, rng)
        signal.alarm(60)
        try:
            same = repr(read(here)) == wanted
            outcomes["as it was" if same else "another valid value"] += 1
            if checked and not resealed and not same:
                wrong.append([i, "a load that is not right"])
        except Fault as fault:
            outcomes["one Fault"] += 1
            if "\n" in str(fault) or not str(fault):
                wrong.append([i, f"more than a line: {fault}"])
        except BaseException:
            wrong.append([i, traceback.format_exc()])
        finally:
            signal.alarm(0)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base)
    print(json.dumps({"outcomes": outcomes, "wrong": wrong, "grown": grown}))


if __name__ == "__main__":
    for kind in KINDS if sys.argv[1] == "all" else [sys.argv[1]]:
        main(kind, int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), Path(sys.argv[5]))
