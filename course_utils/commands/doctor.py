"""`course doctor`: does this machine have what the course needs, and if not, what to do.

Every check is a function that gives a Check: a name, ok or not, what was found, and the remedy.
Essential checks decide the exit code; the others only warn. In a notebook,
`print(doctor().text(values=False))` shows the same words on every healthy machine.
"""

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from course_utils.data.assets import ASSETS, available
from course_utils.paths import cache_dir

TESTED = (3, 11)
NEEDED_MEMORY, NEEDED_DISK = 3e9, 0.5e9
PACKAGES = ("torch", "numpy", "matplotlib", "jupyterlab", "ipywidgets", "tqdm", "safetensors")
PACKAGES += ("tokenizers", "transformers", "networkx")


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    essential: bool = True

    @property
    def state(self) -> str:
        return "ok" if self.ok else "MISSING" if self.essential else "warning"


class Report(list[Check]):
    """The checks in order; it shows itself as plain text."""

    @property
    def ok(self) -> bool:
        """Whether nothing essential is missing."""
        return all(check.ok or not check.essential for check in self)

    def text(self, values: bool = True) -> str:
        """A line for each check; without values, nothing that differs between healthy machines."""
        lines = []
        for check in self:
            line = f"{check.state:<8} {check.name:<20} {check.found if values else ''}".rstrip()
            lines.append(line if check.ok else f"{line}\n{'':<9}{check.remedy}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return self.text()


def doctor() -> Report:
    """Run every check; none of them raises, changes anything, or uses the network."""
    checks: list[Callable[[], Check]] = [_python, _packages, _torch, _threads, _memory, _disk]
    checks += [_cache, _kernel]
    report = Report(check() for check in checks)
    report.extend(_asset(name) for name in ASSETS)
    return report


def _python() -> Check:
    found = f"{platform.python_version()} in {sys.prefix}"
    version = sys.version_info[:2]
    if version == TESTED:
        return Check("Python", True, found)
    if (3, 11) <= version < (3, 14):
        remedy = "the course is tested with Python 3.11; this version is declared, not tested"
        return Check("Python", False, found, remedy, essential=False)
    return Check("Python", False, found, "install Python 3.11, then `make lab PYTHON=python3.11`")


def _packages() -> Check:
    missing = []
    for package in PACKAGES:
        try:
            importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        remedy = "run `pip install -c constraints.txt -e .` in the environment of the course"
        return Check("packages", False, f"missing: {', '.join(missing)}", remedy)
    return Check("packages", True, f"{len(PACKAGES)} found")


def _torch() -> Check:
    try:
        import torch

        total = float(torch.ones(3).sum())
    except Exception as error:  # a broken torch raises OSError, RuntimeError and others
        remedy = "install it again: `pip install --force-reinstall -c constraints.txt torch`"
        return Check("PyTorch", False, f"{type(error).__name__}: {error}", remedy)
    device = "CUDA too" if torch.cuda.is_available() else "CPU"
    return Check("PyTorch", total == 3.0, f"{torch.__version__}, {device}")


def _threads() -> Check:
    try:
        import torch
    except ImportError:
        return Check("threads", False, "PyTorch is missing", "see above", essential=False)
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    remedy = "more threads than cores makes everything slow: unset OMP_NUM_THREADS"
    return Check(
        "threads", threads <= cores, f"{threads} on {cores} cores", remedy, essential=False
    )


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB"
    remedy = f"a chapter takes up to {NEEDED_MEMORY / 1e9:.0f} GB: close other programs"
    return Check("memory", memory.available >= NEEDED_MEMORY, found, remedy, essential=False)


def _disk() -> Check:
    folder = cache_dir()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    remedy = "free half a gigabyte, or set COURSE_CACHE to a folder on another disk"
    found = f"{free / 1e9:.1f} GB free for the cache"
    return Check("disk", free >= NEEDED_DISK, found, remedy, essential=False)


def _cache() -> Check:
    folder = cache_dir()
    existing = folder
    while not existing.exists():
        existing = existing.parent
    writable = existing.is_dir() and os.access(existing, os.W_OK)
    remedy = f"make {existing} writable, or set COURSE_CACHE to a folder that is"
    return Check("cache folder", writable, str(folder), remedy, essential=False)


def _kernel() -> Check:
    remedy = "run `python -m ipykernel install --sys-prefix` in the environment of the course"
    try:
        from jupyter_client.kernelspec import KernelSpecManager

        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except Exception as error:  # no jupyter, no such kernel, or a damaged kernel.json
        return Check("Jupyter kernel", False, f"{type(error).__name__}: {error}", remedy)
    if (
        Path(command).name in ("python", "python3", "python.exe")
        and not Path(command).is_absolute()
    ):
        return Check("Jupyter kernel", True, "python3, this environment's Python")
    ours = Path(command).absolute() == Path(sys.executable).absolute()
    return Check("Jupyter kernel", ours, f"python3 runs {command}", remedy)


def _asset(name: str) -> Check:
    asset = ASSETS[name]
    remedy = f"run `course fetch {name}` with a network; until then {asset.without}"
    if available(name):
        found = f"{asset.file_bytes / 1e6:.0f} MB, checksum right"
        return Check(f"file {name}", True, found, essential=False)
    damaged = (cache_dir() / asset.filename).is_file()
    found = "damaged: checksum wrong" if damaged else "not in the cache"
    return Check(f"file {name}", False, found, remedy, essential=False)
