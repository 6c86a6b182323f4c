"""`make constraints`: renew constraints.txt from two fresh environments.

How it works: `.[test]` and `.[oracles]` are installed into new environments under build/, without
constraints; what pip freeze says of both becomes the new file, provided that they agree. A local
part of a version (torch's "+cpu") is dropped, so that the pin fits every build. Afterwards:
`make test`, and environment.yml by hand (a test says where it differs).
"""

import re
import subprocess
import sys
import venv
from pathlib import Path

from course_utils.commands.environment import ROOT, venv_python

HEAD = """\
# The tested set, for Python 3.11: every package of `.[test]` and `.[oracles]`, direct or not.
# Every pip line of the course carries `-c constraints.txt`. How to renew it: docs/maintainer.md.
"""


def freeze(folder: Path, extra: str) -> dict[str, str]:
    """The newest versions of everything that an extra needs, by name."""
    print(f"installing the newest .[{extra}] into {folder}", flush=True)
    venv.create(folder, with_pip=True, clear=True)
    pip = [str(venv_python(folder)), "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", "-e", f".[{extra}]"], cwd=ROOT, check=True)
    listing = subprocess.run(
        [*pip, "freeze", "--exclude-editable"], capture_output=True, text=True, check=True
    )
    pairs = [line.split("==") for line in listing.stdout.splitlines() if "==" in line]
    return {name: version.split("+")[0] for name, version in pairs}


def merge(one: dict[str, str], other: dict[str, str]) -> str:
    """The file for both environments. Raises ValueError where they disagree."""
    different = [name for name in one.keys() & other.keys() if one[name] != other[name]]
    if different:
        lines = [f"{name}: {one[name]} and {other[name]}" for name in sorted(different)]
        raise ValueError(f"the two environments disagree, pin one by hand: {'; '.join(lines)}")
    both = one | other
    names = sorted(both, key=lambda name: re.sub(r"[-_.]+", "-", name).lower())
    return HEAD + "".join(f"{name}=={both[name]}\n" for name in names)


def main() -> int:
    """Write the new constraints.txt."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    test = freeze(build / "fresh-test", "test")
    text = merge(test, freeze(build / "fresh-oracles", "oracles"))
    (ROOT / "constraints.txt").write_text(text)
    print("constraints.txt renewed; now run `make test`")
    return 0


if __name__ == "__main__":
    sys.exit(main())
