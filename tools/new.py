"""Start an algorithm: its file, its test and its bench row, from tools/template. What make new A=name runs.

python tools/new.py NAME [FAMILY]
"""

import keyword
import re
import sys
from pathlib import Path

HOUSE = Path(__file__).parents[1]
TEMPLATE = Path(__file__).with_name("template")


def new(name: str, family: str = "continuous") -> list[Path]:
    """Writes the three files and returns their paths. Raises ValueError, in one line, having written nothing."""
    algos = HOUSE / "thespis" / "algos"
    families = sorted(p.parent.name for p in algos.glob("*/__init__.py"))
    taken = sorted({p.stem for p in algos.rglob("*.py") if p.stem != "__init__"} | set(families))
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,23}", name) or keyword.iskeyword(name):
        raise ValueError(
            f"A={name}: a name is up to 24 lower-case letters, digits and _, the first a letter, as in make new A=td3"
        )
    if family == "onpolicy":
        raise ValueError(f"F={family}: the template is off-policy; copy thespis/algos/onpolicy/ppo.py and its test instead")
    if family not in families:
        raise ValueError(f"F={family}: no such family; there are {', '.join(families)}")
    if name in taken:
        raise ValueError(f"A={name}: the name is taken; taken are {', '.join(taken)}")
    files = {
        algos / family / f"{name}.py": "algorithm.py",
        HOUSE / "tests" / "papers" / f"test_{name}.py": "test.py",
        HOUSE / "bench" / "rows" / f"{name}.toml": "row.toml",
    }
    for path in files:
        if path.exists():
            raise ValueError(f"A={name}: {path.relative_to(HOUSE)} is there already; nothing was written")
    for path, source in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((TEMPLATE / source).read_text().replace("NAME", name).replace("FAMILY", family))
    return list(files)


def main() -> None:
    if len(sys.argv) not in (2, 3) or not sys.argv[1]:
        sys.exit("which name? make new A=name [F=family]")
    try:
        files = new(sys.argv[1], *sys.argv[2:])
    except ValueError as error:
        sys.exit(str(error))
    for path in files:
        print(f"wrote {path.relative_to(HOUSE)}")
    print(f"Write over each REPLACE; make one A={sys.argv[1]} runs its tests.")


if __name__ == "__main__":
    main()
