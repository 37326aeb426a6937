"""Observations that are images, or have some among their parts, in a byte a number instead of four."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thespis.core import Spec


def observations(spec: Spec, there: Callable[[np.ndarray], Any], rows: int) -> Any:
    """Room for so many observations, put `there`; `Images` where a byte will do for some of their numbers."""
    if not spec.images:
        return there(np.zeros((rows, spec.obs.dim), np.float32))
    return Images(there(np.zeros((rows, row_bytes(spec)), np.uint8)), spec)


def row_bytes(spec: Spec) -> int:
    """That an observation takes."""
    return 4 * spec.obs.dim - 3 * sum(stop - start for start, stop in spec.images)


def stored(rows: Any) -> Any:
    """The bytes of `Images`, as they go to disk and come back; any other rows as they are."""
    return rows.packed if isinstance(rows, Images) else rows


class Images:
    """Rows that are taken and set as those of an array (rows, obs). What was set comes back exactly.

    A row is the bytes of its images, then those of its other numbers. Given as such bytes it is taken as it is.
    """

    def __init__(self, packed: Any, spec: Spec):
        self.packed, self.dim, self.images = packed, spec.obs.dim, spec.images
        ends = [0, *(end for image in spec.images for end in image), spec.obs.dim]
        self.others = [(start, stop) for start, stop in zip(ends[::2], ends[1::2], strict=True) if start < stop]
        self.split = sum(stop - start for start, stop in spec.images)

    @property
    def nbytes(self) -> int:
        return int(self.packed.nbytes)

    def __len__(self) -> int:
        return len(self.packed)

    def __getitem__(self, rows: Any) -> Any:
        x: Any = self.packed[rows]
        out: Any
        pixels, others = x[..., : self.split], x[..., self.split :]
        if isinstance(x, Tensor):
            out = torch.empty((*x.shape[:-1], self.dim), device=x.device)
            pixels = pixels / torch.tensor(255.0, device=x.device)  # by a plain 255 CUDA multiplies by its inverse
            others = others.clone().view(torch.float32)
        else:
            out = np.empty((*x.shape[:-1], self.dim), np.float32)
            pixels = np.divide(pixels, np.float32(255), dtype=np.float32)
            others = others.copy().view(np.float32)
        for ranges, part in (self.images, pixels), (self.others, others):
            first = 0
            for start, stop in ranges:
                out[..., start:stop] = part[..., first : first + stop - start]
                first += stop - start
        return out

    def __setitem__(self, rows: Any, new: Any) -> None:
        self.packed[rows] = new if new.dtype in (np.uint8, torch.uint8) else self._pack(np.asarray(new, np.float32))

    def _pack(self, x: np.ndarray) -> np.ndarray:
        pixels = [np.rint(x[..., start:stop] * 255).clip(0, 255).astype(np.uint8) for start, stop in self.images]
        others = [x[..., start:stop].copy().view(np.uint8) for start, stop in self.others]
        return np.concatenate(pixels + others, -1)
