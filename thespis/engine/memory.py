"""Whether what a run keeps in memory fits there: told before anything of it is made."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

from thespis import data
from thespis.core import Fault, Learner, OffPolicy, Spec, leaves
from thespis.engine.run import Run

TRIED = (OSError, ValueError, IndexError)


def free(device: str = "cpu") -> int | None:
    """Bytes that can be had; None where the system does not say."""
    if torch.device(device).type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # which torch keeps for itself
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    found: list[int] = []
    with suppress(*TRIED):
        found.append(int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024)
    with suppress(*TRIED):  # that of a container; "max" where there is none
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    if not found:
        with suppress(*TRIED):
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    return min(found, default=None)


def check_experience(learner: Learner, spec: Spec, run: Run) -> list[str]:
    """Notes where replay, rollout or batch take a good part of what is free. Raises Fault where they do not fit."""
    notes, feed = [], learner.experience
    if isinstance(feed, OffPolicy) and feed.replay_size < feed.batch_size:
        notes.append(
            f"replay_size is {feed.replay_size:,}, less than batch_size ({feed.batch_size:,}): rows repeat in every batch"
        )
    for option, count, each in data.memory(spec, feed, run.num_envs, run.hindsight is not None, run.priority is not None):
        room = free("cpu" if option == "rollout" or run.collectors else run.device)
        if room is None or count * each < room / 4:
            continue
        takes = f"{option} is {count:,}; with observations of {spec.obs.dim:,} numbers that takes {amount(count * each)}, and"
        takes = f"{takes} {amount(room)} are free"
        if count * each < room:
            notes.append(takes)
            continue
        fits = int(float(f"{0.9 * room / each:.1e}"))
        raise Fault(f"{takes}: {f'give {fits:,} or less' if fits else 'not even one fits'}")
    return notes


def check_networks(learner: Learner, device: str, sizes: str) -> None:
    """Raises Fault where the learner's State does not fit twice, as in an update. `sizes` says what makes it large."""
    room = free(device)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            size = 2 * sum(x.nbytes for x in leaves(learner.init()).values())
    except (RuntimeError, MemoryError) as error:
        if "overflow" not in str(error):
            return  # an init that looks at its numbers: it is found when it is made
        raise Fault(f"{sizes}: networks of that size have more numbers than can be counted") from None
    if room is not None and size > room:
        raise Fault(
            f"{sizes}: networks of that size take {amount(size)} in an update, and {amount(room)} are free: make them smaller"
        )


def amount(size: float) -> str:
    """Bytes, as a person reads them."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"
