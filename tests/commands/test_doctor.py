"""`course doctor`: every line is ok or names its remedy, and only essentials decide."""

import importlib.metadata
import sys
from types import SimpleNamespace

import pytest

from course_utils.cli import main
from course_utils.commands import doctor as module
from course_utils.commands.doctor import Check, Report, doctor
from course_utils.data import assets


def test_every_line_is_ok_or_has_a_remedy():
    report = doctor()
    assert len(report) == 8 + len(assets.ASSETS)
    assert all(check.ok or check.remedy for check in report)
    assert all(check.found for check in report)


def test_text_without_values_is_the_same_on_every_healthy_machine():
    report = Report([Check("Python", True, "3.11.7 in /some/where"), Check("disk", True, "80 GB")])
    assert report.text(values=False) == "ok       Python\nok       disk"
    assert "/some/where" in report.text() == repr(report)


def test_warning_is_not_fatal_and_a_missing_essential_is(monkeypatch, capsys):
    warning = Check("memory", False, "1 GB", "close other programs", essential=False)
    essential = Check("PyTorch", False, "none", "install it")
    monkeypatch.setattr(module, "doctor", lambda: Report([warning]))
    assert main(["doctor"]) == 0
    assert "warning  memory" in capsys.readouterr().out
    monkeypatch.setattr(module, "doctor", lambda: Report([warning, essential]))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "MISSING  PyTorch" in out and "\n         install it" in out


@pytest.mark.parametrize(
    ("version", "ok", "essential"),
    [
        ((3, 11), True, True),
        ((3, 12), False, False),
        ((3, 10), False, True),
        ((3, 14), False, True),
    ],
)
def test_python_versions(monkeypatch, version, ok, essential):
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    check = module._python()
    assert (check.ok, check.ok or check.essential) == (ok, ok or essential)


def test_missing_package_is_named(monkeypatch):
    def version(package):
        if package == "safetensors":
            raise importlib.metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    check = module._packages()
    assert not check.ok and check.found == "missing: safetensors" and "constraints" in check.remedy


def test_broken_torch_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert not module._torch().ok and not module._threads().ok


def test_little_memory_and_disk_and_many_threads_warn(monkeypatch):
    import psutil
    import torch

    memory = SimpleNamespace(available=1e9, total=4e9)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e8))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 999)
    for check in (module._memory(), module._disk(), module._threads()):
        assert not check.ok and not check.essential and check.remedy


def test_kernel_of_another_environment_is_found(monkeypatch):
    from jupyter_client import kernelspec

    spec = SimpleNamespace(argv=["/another/python", "-m", "ipykernel_launcher"])
    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", lambda *_: spec)
    assert not module._kernel().ok
    spec.argv[0] = sys.executable
    assert module._kernel().ok


def test_files_missing_and_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "new" / "cache"))
    check = module._asset("kjv")
    assert (check.found, check.essential) == ("not in the cache", False)
    assert "course fetch kjv" in check.remedy
    assert module._cache().ok and module._disk().found  # a cache that is yet to be made
    (tmp_path / "new" / "cache").mkdir(parents=True)
    (tmp_path / "new" / "cache" / assets.ASSETS["kjv"].filename).write_text("half a text")
    assert module._asset("kjv").found == "damaged: checksum wrong"
