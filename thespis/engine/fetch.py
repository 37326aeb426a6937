"""Policies on the Hugging Face Hub: hf://owner/name or hf://owner/name@revision becomes a folder of this machine.

What comes from there is read as a run directory that somebody sent: JSON and safetensors, checked, and no code. Only the files
named below are fetched.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thespis.core import Fault

if TYPE_CHECKING:
    from huggingface_hub import HfApi

SCHEME = "hf://"
NAME = r"\w[\w.-]*/\w[\w.-]*"
FILES = ("config.json", *(f"policy/{which}.{kind}" for which in ("last", "best") for kind in ("json", "safetensors")))


def client() -> HfApi:
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise Fault('the Hub needs a package of its own: pip install "thespis[hub]"') from None
    return HfApi(library_name="thespis")


def token() -> bool:
    """Whether the client has one."""
    from huggingface_hub import get_token

    return get_token() is not None


def named(path: Any) -> bool:
    return isinstance(path, str) and path.startswith(SCHEME)


def local(path: Any) -> Any:
    """A folder with the files of hf://owner/name[@revision], in the Hub's own cache; any other path as it is.

    Raises Fault where the name is none, the package is missing, or there is no such repository, right or network.
    """
    if not named(path):
        return path
    parts = re.fullmatch(rf"hf://({NAME})(?:@([\w./-]+))?", path)
    if parts is None:
        raise Fault(f"{path!r} is no place on the Hub; allowed: hf://owner/name or hf://owner/name@revision")
    api = client()
    try:
        folder = Path(str(api.snapshot_download(parts[1], revision=parts[2], allow_patterns=list(FILES))))
    except Exception as error:  # of the client, of its transport, of the disk
        raise Fault(f"{path} cannot be fetched: {reason(error)}") from error
    if not (folder / "policy").is_dir():
        raise Fault(f"{path} holds no policy of Thespis")
    return folder


def reason(error: Exception) -> str:
    """An error of the Hub's client, on one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words if len(words) <= 300 else words[:297] + '...'}"
