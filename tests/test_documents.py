"""The documents: links lead somewhere, commands exist, and every promised page is there."""

import re
from pathlib import Path

import pytest
import typer

from course_utils.cli import app
from course_utils.data.assets import ASSETS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:^|`|&& |!)course ([a-z][a-z-]+)((?:[^\n`&]*)?)", re.MULTILINE)
MACHINE_PATHS = re.compile(r"(?<![\w.:/~])/(?:root|opt|work|workspace|home/\w+)/")


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def broken_links(page: Path) -> list[str]:
    """Relative links of a page whose file or heading is not there."""
    broken = []
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists():
            broken.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            broken += [] if anchor in map(_anchor, headings) else [target]
    return broken


def unknown_commands(text: str) -> list[str]:
    """`course ...` lines in code that the command does not know, options included."""
    known = typer.main.get_command(app).commands
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
    wrong = []
    for name, rest in COMMAND.findall(code):
        if name not in known:
            wrong.append(f"course {name}")
            continue
        options = {option for parameter in known[name].params for option in parameter.opts}
        options |= {"--help"}
        wrong += [f"course {name} {o}" for o in re.findall(r"--[a-z-]+", rest) if o not in options]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_is_sound(page):
    text = page.read_text(encoding="utf-8")
    assert broken_links(page) == []
    assert unknown_commands(text) == []
    assert not MACHINE_PATHS.search(text)
    assert re.findall(r"\b(?:RUNTIME|SECONDS)_\w+", text) == [], "numbers to be filled in"


def test_broken_pages_are_told(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One\n[a](gone.md) [b](#one) [c](#two) [d](https://example.org)")
    assert broken_links(page) == ["gone.md", "#two"]
    assert unknown_commands("```sh\ncourse dance\n```") == ["course dance"]
    assert unknown_commands("`course run --fast` `course run 02 --out x`") == ["course run --fast"]
    assert unknown_commands("the course runs, of course not") == []


def test_promised_pages_are_there_and_linked():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in ("learner", "teacher", "maintainer", "errors", "glossary"):
        assert f"docs/{page}.md" in readme
    for command in typer.main.get_command(app).commands:
        assert f"`course {command}" in readme


def test_fetched_files_and_their_licences_are_named():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for words in (
        "SmolLM2-135M-Instruct",
        "King James Bible",
        "Romance of the Three Kingdoms",
        "public domain",
    ):
        assert words in readme
    total = round(sum(asset.wheel_bytes for asset in ASSETS.values()) / 1e6)
    assert f"About {total} MB" in readme
