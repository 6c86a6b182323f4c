"""What `make lab`, `make test` and `make oracles` do, step by step, with times.

How it works: a target is a list of steps; each prints what it does and how long it took, and a
summary closes the run. `make test` runs every step even after a failure, because whoever reads a
red run wants the whole picture at once; only steps whose environment could not be made are left
out. The exit code is 1 if any step failed. Missing texts or weights are a warning: tests and
notebooks say themselves what they skip.

It starts before any environment exists, so it uses the standard library alone:
`python3 -m course_utils.commands.steps test`.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from course_utils.commands.environment import ROOT, ensure, venv_python

MAIN, ORACLES = ROOT / ".venv", ROOT / ".venv-oracles"
NBVAL = [
    "--nbval",
    "--nbval-current-env",
    "--nbval-cell-timeout=300",
    "--nbval-sanitize-with=tests/notebooks/nbval_sanitize.cfg",
]


@dataclass(frozen=True)
class Step:
    """One step: its name, what it needs, and a function that gives ok, warning, failed or empty."""

    name: str
    environment: Path | None  # the environment that has to be there
    action: Callable[[], str]


def run_steps(steps: list[Step]) -> int:
    """Run the steps in order, print the summary, and give the exit code."""
    began, rows, broken = time.perf_counter(), [], set()
    for number, step in enumerate(steps, 1):
        print(f"\n== {number}/{len(steps)} {step.name}", flush=True)
        started = time.perf_counter()
        if step.environment in broken:
            state = "not run"
        else:
            state = step.action()
        seconds = time.perf_counter() - started
        if state == "failed" and step.name.startswith("environment"):
            broken.add(ROOT / step.name.split()[-1])
        print(f"-- {step.name}: {state}, {seconds:.1f} s", flush=True)
        rows.append((step.name, state, seconds))
    return _summary(rows, time.perf_counter() - began)


def _summary(rows: list[tuple[str, str, float]], total: float) -> int:
    print("\nstep                       result    seconds")
    for name, state, seconds in rows:
        print(f"{name:<26} {state:<9} {seconds:7.1f}")
    print(f"{'all':<26} {'':<9} {total:7.1f}")
    bad = [name for name, state, _ in rows if state in ("failed", "not run")]
    print(f"failed or not run: {', '.join(bad)}" if bad else "all steps done", flush=True)
    return 1 if bad else 0


def _environment(folder: Path, extra: str, torch: str) -> Step:
    def action() -> str:
        try:
            ensure(folder, extra, torch)
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"{error}\ncould not make {folder.name}; see docs/errors.md")
            return "failed"
        return "ok"

    return Step(f"environment {folder.name}", None, action)


def _python(name: str, folder: Path, arguments: list[str], on_failure: str = "failed") -> Step:
    """A step that runs `python -m ...` of an environment in the checkout."""

    def action() -> str:
        command = [str(venv_python(folder)), "-m", *arguments]
        print(f"$ {folder.name}/bin/python -m {' '.join(arguments)}", flush=True)
        code = subprocess.run(command, cwd=ROOT, env=_child_environment()).returncode
        return on_failure if code else "ok"

    return Step(name, folder, action)


def _where(pattern: str, step: Step) -> Step:
    """The step, or nothing to do while no file fits the pattern."""
    if any(ROOT.glob(pattern)):
        return step

    def action() -> str:
        print(f"no file {pattern} yet")
        return "empty"

    return Step(step.name, step.environment, action)


def _workers() -> int:
    return int(os.environ.get("WORKERS") or 2)


def _child_environment() -> dict[str, str]:
    """Cores are shared between the workers, and nothing asks a model hub."""
    threads = str(max(1, (os.cpu_count() or 1) // _workers()))
    defaults = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    defaults |= {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "JUPYTER_PREFER_ENV_PATH": "1"}
    return defaults | dict(os.environ)


def _fetch(folder: Path) -> Step:
    return _python("texts and weights", folder, ["course_utils", "fetch"], on_failure="warning")


def _oracle_steps(torch: str) -> list[Step]:
    tests = _python("oracles", ORACLES, ["pytest", "-q", "tests/oracles"])
    return [_environment(ORACLES, "oracles", torch), _where("tests/oracles/test_*.py", tests)]


def steps_of_test(torch: str) -> list[Step]:
    """The steps of `make test`."""
    spread = ["-n", str(_workers())]
    notebooks = ["pytest", "-q", *NBVAL, *spread, "--dist=loadscope", "notebooks"]
    return [
        _environment(MAIN, "test", torch),
        _fetch(MAIN),
        _python("lint", MAIN, ["ruff", "check"]),
        _python("format", MAIN, ["ruff", "format", "--check"]),
        _python("tests", MAIN, ["pytest", "-q", "tests", "--ignore=tests/oracles", *spread]),
        _where("notebooks/*.ipynb", _python("notebooks", MAIN, notebooks)),
        *_oracle_steps(torch),
    ]


def steps_of_oracles(torch: str) -> list[Step]:
    """The steps of `make oracles`."""
    environment, tests = _oracle_steps(torch)
    return [environment, _fetch(ORACLES), tests]


def steps_of_lab(torch: str) -> list[Step]:
    """The steps of `make lab` before JupyterLab opens."""
    copies = _python("your copies in work/", MAIN, ["course_utils", "update"])
    return [_environment(MAIN, "test", torch), _fetch(MAIN), copies]


def open_lab(browser: bool) -> int:
    """Open JupyterLab on the first notebook and stay until it is closed."""
    first = ROOT / "work" / "00_start_here.ipynb"
    command = [str(venv_python(MAIN)), "-m", "jupyter", "lab"]
    command += [str(first.relative_to(ROOT))] if first.is_file() else []
    command += [] if browser else ["--no-browser"]
    command += shlex.split(os.environ.get("LAB_ARGS", ""))
    print("\nopening JupyterLab; stop it with Ctrl-C", flush=True)
    path = os.pathsep.join([str(venv_python(MAIN).parent), os.environ.get("PATH", "")])
    environment = {**os.environ, "JUPYTER_PREFER_ENV_PATH": "1", "PATH": path}
    try:
        return subprocess.run(command, cwd=ROOT, env=environment).returncode
    except KeyboardInterrupt:
        return 0


def main() -> int:
    """The command line that the make targets call."""
    parser = argparse.ArgumentParser(prog="steps", description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=["lab", "test", "oracles"])
    parser.add_argument("--torch", choices=["", "cpu"], default="", help="cpu: the small build")
    parser.add_argument("--no-browser", action="store_true", help="lab: open no browser")
    parser.add_argument("--no-lab", action="store_true", help="lab: prepare all, open nothing")
    asked = parser.parse_args()
    steps = {"lab": steps_of_lab, "test": steps_of_test, "oracles": steps_of_oracles}[asked.target]
    code = run_steps(steps(asked.torch))
    if asked.target == "lab" and not code and not asked.no_lab:
        return open_lab(browser=not asked.no_browser)
    return code


if __name__ == "__main__":
    sys.exit(main())
