"""`course update` and `course reset`: bring the learner's copies up to date, answers kept."""

from collections.abc import Callable
from pathlib import Path

from course_utils.commands.copies import Work, content_hash

Say = Callable[[str], None]


def update(notebooks: list[Path], folder: Path, replace: bool, say: Say) -> None:
    """New chapters arrive, unedited copies are refreshed, edited ones are left alone.

    Where the course changed under an edited copy, the new version is put beside it as
    `NN_name.new.ipynb`; with `replace` it takes the copy's place, after a backup.
    """
    work = Work(folder)
    for source in notebooks:
        say(f"{source.name}: {_update_one(work, source, replace)}")


def _update_one(work: Work, source: Path, replace: bool) -> str:
    name, latest = source.name, content_hash(source)
    copy = work.folder / name
    if not copy.exists():
        work.hand_out(source, name)
        return "new"
    if content_hash(copy) == latest:
        work.remember(name, latest)
        return "up to date"
    if not work.edited(name, latest):
        work.hand_out(source, name)
        return "refreshed; you had not edited it"
    if work.is_version(name, latest):
        return "yours, left as it is"
    if replace:
        backup = work.back_up(name)
        work.hand_out(source, name)
        return f"replaced by the new version; your copy is in {_short(backup, work)}"
    return _put_beside(work, source, latest)


def _put_beside(work: Work, source: Path, latest: str) -> str:
    """The new version as NN_name.new.ipynb; an edited one of that name is backed up first."""
    name = f"{source.stem}.new.ipynb"
    beside, kept = work.folder / name, ""
    if not (beside.exists() and work.is_version(name, latest)):
        if beside.exists() and work.edited(name, latest):
            backup = _short(work.back_up(name), work)
            kept = f"; the former one, which you had edited, is in {backup}"
        work.hand_out(source, name)
    return (
        f"yours, left as it is; the course has a new version, put beside it as {name}{kept} "
        "(`course update --replace` takes it, after a backup)"
    )


def reset(source: Path, folder: Path, say: Say) -> None:
    """A fresh copy of one chapter; an edited one goes into `work/backups/` first."""
    work, name = Work(folder), source.name
    copy = folder / name
    if copy.exists() and work.edited(name, content_hash(source)):
        say(f"{name}: your copy is in {_short(work.back_up(name), work)}")
    work.hand_out(source, name)
    say(f"{name}: fresh copy in {folder.name}/")


def _short(path: Path, work: Work) -> str:
    return str(path.relative_to(work.folder.parent))
