"""pyproject.toml, constraints.txt and environment.yml say the same; the make targets use them."""

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from course_utils.commands import constraints, environment, steps

ROOT = Path(__file__).resolve().parent.parent
CONDA_NAMES = {"torch": "pytorch-cpu", "prometheus-client": "prometheus_client"}


def _project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _requirements(*extras: str) -> dict[str, Requirement]:
    project = _project()
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "constraints.txt holds name==version lines alone"
    return {canonicalize_name(name): version for name, version in pairs}


def test_every_dependency_is_pinned_to_a_version_that_it_allows():
    pins = _pins()
    for name, requirement in _requirements("test", "oracles").items():
        assert name in pins, f"{name} is in pyproject.toml and not in constraints.txt"
        assert requirement.specifier.contains(pins[name]), f"{requirement} excludes {pins[name]}"


def test_constraints_are_sorted_exact_and_for_every_build():
    names = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    assert names == sorted(names, key=lambda line: canonicalize_name(line.split("==")[0]))
    for name, version in _pins().items():
        assert Version(version).local is None, f"{name}=={version} names one build alone"


def test_renewed_constraints_fit_both_environments_and_every_build():
    text = constraints.merge({"b_x": "1", "A": "2"}, {"A": "2", "b-a": "3"})
    assert text == constraints.HEAD + "A==2\nb-a==3\nb_x==1\n"
    with pytest.raises(ValueError, match="A: 2 and 3"):
        constraints.merge({"A": "2"}, {"A": "3"})


def test_this_environment_is_the_tested_one():
    wrong = []
    for name in _requirements("test"):
        installed = Version(importlib.metadata.version(name)).public
        if installed != _pins()[name]:
            wrong.append(f"{name} is {installed}, constraints.txt says {_pins()[name]}")
    assert not wrong, "\n".join(wrong)


def test_conda_environment_names_the_same_packages_and_versions():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = dict(line.split("=") for line in listed if isinstance(line, str) and "=" in line)
    wanted = {CONDA_NAMES.get(name, name): _pins()[name] for name in _requirements("test")}
    assert conda.pop("python") == "3.11"
    assert conda == wanted
    (pip_part,) = [part for part in listed if isinstance(part, dict)]
    assert pip_part == {"pip": ["-e ."]}


def test_python_versions_are_said_alike_everywhere():
    project = _project()
    assert project["requires-python"] == ">=3.11,<3.14"
    versions = [line.split(":: ")[-1] for line in project["classifiers"] if "Python ::" in line]
    assert versions == ["3.11", "3.12", "3.13"]
    assert "(3, 11) <= sys.version_info[:2] < (3, 14)" in (ROOT / "Makefile").read_text()


def test_every_pip_line_carries_the_constraints():
    command = environment._pip_command(ROOT / ".venv", "test", "")
    assert command[command.index("-c") + 1] == "constraints.txt"
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "Makefile"]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if re.search(r"pip install .*-e ", line):
                assert "-c constraints.txt" in line, f"{path.name}: {line}"


def test_small_build_of_torch_comes_from_its_own_index_only_when_asked():
    assert "--extra-index-url" not in environment._pip_command(ROOT / ".venv", "test", "")
    command = environment._pip_command(ROOT / ".venv", "test", "cpu")
    assert command[command.index("--extra-index-url") + 1] == environment.CPU_INDEX


def test_shipped_data_is_part_of_the_package():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = patterns["package-data"]["*"]
    for path in (ROOT / "course_utils").rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert f"*{path.suffix}" in shipped, f"{path.name} would be missing once installed"


def test_ci_calls_make_test_and_nothing_else():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    lines = script.read_text().splitlines()
    rest = [line for line in lines[1:] if not line.startswith(("set ", "cd "))]
    assert rest == ["make test"]


@pytest.fixture
def small_checkout(tmp_path, monkeypatch):
    """A checkout with the two files that an environment is made from; pip only notes its calls."""
    calls: list[list[str]] = []
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment.venv, "create", lambda *_, **__: calls.append(["make"]))
    monkeypatch.setattr(environment, "_starts", lambda folder: (folder / "starts").exists())
    real = subprocess.run
    monkeypatch.setattr(
        environment.subprocess,
        "run",
        lambda command, **options: (
            calls.append(["pip"]) if "pip" in command else real(command, **options)
        ),
    )
    (tmp_path / ".venv").mkdir()
    return tmp_path, calls


def test_environment_is_made_once_and_renewed_when_its_sources_change(small_checkout):
    root, calls = small_checkout
    folder = root / ".venv"
    assert environment.ensure(folder, "test")
    assert calls == [["make"], ["pip"]]
    (folder / "starts").touch()
    assert not environment.ensure(folder, "test")
    (root / "constraints.txt").write_text("torch==2\n")
    assert environment.ensure(folder, "test")
    assert calls == [["make"], ["pip"], ["pip"]]


def test_environment_that_is_broken_or_was_moved_is_made_anew(small_checkout):
    root, calls = small_checkout
    folder = root / ".venv"
    (folder / "starts").touch()
    assert environment.ensure(folder, "test")  # made by hand: kept, and completed
    assert calls == [["pip"]]
    stamp = folder / environment.STAMP
    stamp.write_text(stamp.read_text().replace(f"root={root}", "root=/elsewhere"))
    environment.ensure(folder, "test")
    assert calls == [["pip"], ["make"], ["pip"]]
    (folder / "starts").unlink()
    environment.ensure(folder, "test")
    assert calls[3:] == [["make"], ["pip"]]


def _step(name: str, state: str, needs: Path | None = None) -> steps.Step:
    return steps.Step(name, needs, lambda: state)


def test_all_steps_run_after_a_failure_and_the_summary_names_it(capsys):
    ran = [_step("lint", "failed"), _step("fetch", "warning"), _step("tests", "ok")]
    assert steps.run_steps(ran) == 1
    out = capsys.readouterr().out
    assert "-- tests: ok" in out and out.rstrip().endswith("failed or not run: lint")
    assert steps.run_steps(ran[1:]) == 0
    assert capsys.readouterr().out.rstrip().endswith("all steps done")


def test_steps_without_their_environment_are_not_run(capsys):
    folder = steps.MAIN
    broken = _step(f"environment {folder.name}", "failed")
    never = steps.Step("tests", folder, lambda: pytest.fail("ran without its environment"))
    assert steps.run_steps([broken, never, _step("other", "ok", steps.ORACLES)]) == 1
    out = capsys.readouterr().out
    assert "-- tests: not run" in out and "-- other: ok" in out


def test_step_fails_with_its_command(monkeypatch, capsys):
    monkeypatch.setattr(steps, "venv_python", lambda _: Path(sys.executable))
    assert steps._python("good", steps.MAIN, ["platform"]).action() == "ok"
    assert steps._python("bad", steps.MAIN, ["no_such_module"]).action() == "failed"
    gone = steps._python("gone", steps.MAIN, ["no_such_module"], on_failure="warning")
    assert gone.action() == "warning"


def test_nothing_to_do_while_files_are_missing(capsys):
    step = steps._where("tests/no_such_folder/*.py", _step("oracles", "failed"))
    assert step.action() == "empty"


def test_cores_are_shared_between_the_workers(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(steps.os, "cpu_count", lambda: 8)
    monkeypatch.setenv("WORKERS", "2")
    assert steps._child_environment()["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert steps._child_environment()["OMP_NUM_THREADS"] == "1"
