"""The arrays of an HDF5 file that may be a stranger's: nothing in it can run code, or take more memory than it has room for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from thespis.core import Fault

DAMAGE = (OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, ArithmeticError, MemoryError)
"""what json, numpy and h5py raise over a file that is cut or overwritten"""
PACKED = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}
"""HDF5's filters that may be in use, by number: those that come with it"""
DENSEST = 1032
"""times that deflate can make a run of bytes shorter"""
MARGIN = 2**22
"""bytes that a chunk may have beyond what is stored"""


def opener(name: object) -> Any:
    """h5py, which not everybody has."""
    try:
        import h5py
    except ImportError:
        raise Fault(f"data is {str(name)!r}; to read a dataset, install h5py: pip install 'thespis[data]'") from None
    return h5py


class Reader:
    """Hands out the arrays of an HDF5 file, having looked at what each declares: only plain numbers that lie in this file, and
    in all no more of them than it has room for. What is not asked for is never touched."""

    def __init__(self, room: int) -> None:
        self.room = room

    def column(self, group: Any, name: str, space: Space[Any] | None = None) -> Any:
        """The array of that name, or one for each part of a Dict ("name") or of a Tuple ("_index_0")."""
        node = self.node(group, name)
        if isinstance(space, spaces.Dict | spaces.Tuple) and not hasattr(node, "keys"):
            raise Fault(f"{name} must have the parts of a {type(space).__name__}")
        if isinstance(space, spaces.Dict):
            return {k: self.column(node, str(k), part) for k, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return {f"_index_{i}": self.column(node, f"_index_{i}", part) for i, part in enumerate(space.spaces)}
        images = isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) > 1
        if images and (node.ndim == 2 or node.dtype.kind == "O"):
            raise Fault(f"{name} are images stored as JPEG, which are not decoded; write them again with jpeg_encoding=False")
        return self.array(node, name)

    def node(self, group: Any, name: str) -> Any:
        import h5py

        for part in name.split("/"):
            if not isinstance(group, h5py.Group) or group.get(part, getlink=True) is None:
                raise ValueError(f"{group.name.rstrip('/')}/{part} is missing")
            if not isinstance(group.get(part, getlink=True), h5py.HardLink):
                raise Fault(f"{name} is a link to another place; it must be in this file")
            group = group[part]
        return group

    def array(self, node: Any, name: str) -> np.ndarray:
        import h5py

        if not isinstance(node, h5py.Dataset) or node.dtype.kind not in "biuf":
            raise Fault(f"{name} must be numbers")
        plan = node.id.get_create_plist()
        filters = {plan.get_filter(i)[0] for i in range(plan.get_nfilters())}
        if node.is_virtual or node.external or filters - PACKED.keys():
            raise Fault(f"{name} must be in this file, in no packing but {', '.join(PACKED.values())}")
        stored = node.id.get_storage_size()
        self.room -= stored
        chunk = math.prod(node.chunks or ()) * node.dtype.itemsize
        if self.room < 0 or max(node.nbytes, chunk // MARGIN) > stored * (DENSEST if filters - {2, 3} else 1):
            raise Fault(f"{name} declares {node.nbytes} bytes, more than there can be in this file")
        return np.asarray(node[()])
