"""`course verify-records`: run a sample of the recorded results again, and compare."""

from collections.abc import Callable

from course_utils.commands.errors import BadArgumentError


def verify_records(name: str | None, say: Callable[[str], None]) -> bool:
    """Verify one record, or all; True when every one still holds."""
    from course_utils import records

    known = records.names()
    if name is not None and name not in known:
        names = ", ".join(known) or "none yet"
        raise BadArgumentError(f"unknown record {name!r}: the records are {names}")
    good = True
    for record in [name] if name is not None else known:
        result = records.verify(record)
        good &= result.ok
        say(f"{record}: {'holds' if result.ok else 'DIFFERS'}: {result.text}")
    if not known:
        say("no records yet")
    return good
