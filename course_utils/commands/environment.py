"""Make a virtual environment with the tested versions, or see that it is there already.

How it works: the environment gets a stamp, a hash of what it was made from (pyproject.toml,
constraints.txt, the extra and the folder of the checkout). While the stamp fits, nothing is done;
otherwise pip installs the package editable under `-c constraints.txt`. An environment that does
not start, or that came from another folder, is made anew.

It runs before any environment exists, so it uses the standard library alone:
`python3 -m course_utils.commands.environment .venv test`.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
STAMP = "course-stamp.txt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def venv_python(folder: Path) -> Path:
    """The interpreter of an environment, on Unix and on Windows."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def ensure(folder: Path, extra: str, torch: str = "") -> bool:
    """Bring the environment up to date; True when something was installed.

    `torch="cpu"` takes PyTorch from its own index of small CPU builds (Linux).
    Raises subprocess.CalledProcessError when pip fails; the stamp is then not written.
    """
    root, fingerprint = str(ROOT), _fingerprint(extra)
    recorded = _read_stamp(folder)
    if not _starts(folder) or recorded.get("root", root) != root:
        print(f"making {folder.name} with Python {sys.version.split()[0]}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
    elif recorded.get("made from") == fingerprint:
        print(f"{folder.name} is up to date", flush=True)
        return False
    print(f"installing .[{extra}] into {folder.name} (minutes, the first time)", flush=True)
    subprocess.run(_pip_command(folder, extra, torch), cwd=ROOT, check=True)
    (folder / STAMP).write_text(f"root={root}\nmade from={fingerprint}\n")
    return True


def _pip_command(folder: Path, extra: str, torch: str) -> list[str]:
    command = [str(venv_python(folder)), "-m", "pip", "install", "-c", "constraints.txt"]
    command += ["--disable-pip-version-check", "-e", f".[{extra}]"]
    if not sys.stdout.isatty():
        command.append("--quiet")
    if torch == "cpu":
        command += ["--extra-index-url", CPU_INDEX]
    return command


def _fingerprint(extra: str) -> str:
    digest = hashlib.sha256(extra.encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def _read_stamp(folder: Path) -> dict[str, str]:
    try:
        lines = (folder / STAMP).read_text().splitlines()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if "=" in line)


def _starts(folder: Path) -> bool:
    python = venv_python(folder)
    if not python.exists():
        return False
    code = "import sys, pip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))"
    return subprocess.run([str(python), "-c", code], capture_output=True).returncode == 0


def main() -> int:
    """The command line: folder, extra, and where PyTorch comes from."""
    parser = argparse.ArgumentParser(prog="environment", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for example .venv")
    parser.add_argument("extra", choices=["test", "oracles"])
    parser.add_argument("--torch", choices=["", "cpu"], default="", help="cpu: the small build")
    asked = parser.parse_args()
    try:
        ensure(ROOT / asked.folder, asked.extra, asked.torch)
    except subprocess.CalledProcessError as error:
        print(f"pip failed (exit {error.returncode}); see docs/errors.md", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
