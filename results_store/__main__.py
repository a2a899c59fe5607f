"""The store's door: `python -m results_store collate | report | recommend | compare | runs | migrate`."""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console, RenderableType

from farm import health, logs, plugins
from farm.errors import BadInput, FarmError, Unreachable
from farm.inside import inside
from farm.settings import load
from results_store import compare_table, exporters, metrics, recommend_table
from results_store import question as asking
from results_store.collate import collate as rows_of
from results_store.collate import export, exporter
from results_store.compare import Report
from results_store.compare import compare as compared
from results_store.exporters import DEFAULT
from results_store.recommend import recommend as recommended
from results_store.schema import REVISION
from results_store.store import Store, open_store
from results_store.watch import LateStore, Watch

#: Where results go, if nobody says otherwise, and how often `--watch` looks.
RESULTS = Path("results")
EVERY_S = 5.0
#: Where there is no terminal there is no width to keep to.
_WIDE = 240

log = logging.getLogger("results_store")

app = typer.Typer(
    help="What was measured: the CSV of a run, its report, which cell of it to deploy, two runs compared, the\n"
    "runs there are, and the database's schema."
    "\n\n\b\n"
    "The database is FARM_DATABASE_URL, or .farm/farm.db.\n"
    "Exit codes: 0 done, 1 failed, 2 usage, 3 database unreachable, 4 a regression, or nothing feasible.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def collate(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="A run's name or id, the beginning of an id, or 'latest'.  [default: latest]"
        ),
    ] = None,
    format: Annotated[
        str,
        typer.Option(
            metavar="NAMES", help=f"What to write, with commas: {', '.join(plugins.names(exporters.__name__))}."
        ),
    ] = ",".join(DEFAULT),
    output_dir: Annotated[
        Path | None,
        typer.Option(
            help="The folder to write into; with --watch, one that gets a folder for each run.  "
            "[default: results/RUN, or results/NAME; with --watch: results]"
        ),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: write each run when it has ended, until SIGTERM or Ctrl-C.")
    ] = False,
    every: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0.1, help="With --watch: how often to look.  [default: 5]"),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=1, max=65535, help="With --watch: serve /metrics for Prometheus on this port."
        ),
    ] = None,
    metrics_address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where /metrics listens; it asks for no password.")
    ] = "127.0.0.1",
) -> None:
    """Writes benchmark_results.csv: a row for every cell of the run's matrix, measured or not.

    Beside it benchmark_results_detailed.csv, the operators that each cell spends its time in, profiles/, their
    traces for chrome://tracing and Perfetto, and report.html, all of it for people.

    With `jobs` among the formats, benchmark_jobs.csv too: a row for every job, that is for one repeat of a cell,
    however many there are.

    With `tensorboard` among the formats, event files for TensorBoard too: a log for each variant and device.
    `samples` writes every raw sample, `json` and `markdown` the rows, `model_info` what models were made into.

    \b
    Examples:
      python -m results_store collate
      python -m results_store collate 20260131-142500-1a2b --output-dir /tmp/results
      python -m results_store collate latest --format csv,tensorboard
      python -m results_store collate latest --format samples,json,markdown,model_info
      python -m results_store collate --watch --metrics-port 9108
    """
    with _explained():
        _check_together(run, watch, every, metrics_port)
        formats = _formats(format)
        if watch:
            _watch(formats, output_dir or RESULTS, every or EVERY_S, (metrics_address, metrics_port))
        else:
            _collate(run or "latest", formats, output_dir)


@app.command()
def report(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="A run's name or id, the beginning of an id, or 'latest'.")
    ] = "latest",
    output_dir: Annotated[
        Path | None,
        typer.Option(help="The folder to write into.  [default: results/RUN, or results/NAME]"),
    ] = None,
) -> None:
    """Writes report.html: one file for people, with everything in it, to be opened in any browser.

    What was run where; which recipe to deploy on each device, also under limits that are set on the page, and
    what it costs; charts; every doubted row with its reason; links to traces where `collate` put them beside it.

    \b
    Examples:
      python -m results_store report
      python -m results_store report nightly --output-dir /tmp/results
    """
    with _explained():
        _collate(run, ("report",), output_dir)


@app.command()
def recommend(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN]", help="A run's name or id, the beginning of an id, or 'latest'.  [default: latest]"
        ),
    ] = None,
    objective: Annotated[
        str, typer.Option(metavar="NAME", help="What to be the best by: throughput, latency, energy or cost.")
    ] = "throughput",
    max_p50_ms: Annotated[float | None, typer.Option(help="Median latency of a batch at most.")] = None,
    max_p90_ms: Annotated[float | None, typer.Option(help="90th percentile at most.")] = None,
    max_p95_ms: Annotated[float | None, typer.Option(help="95th percentile at most.")] = None,
    max_p99_ms: Annotated[
        float | None,
        typer.Option(help="99th percentile at most; needs 662 calls: measure with --set percentiles=50+99."),
    ] = None,
    min_throughput: Annotated[float | None, typer.Option(help="Samples per second at least.")] = None,
    min_speedup: Annotated[
        float | None, typer.Option(help="Times as fast as the live control at least, such as 1.5.")
    ] = None,
    min_top1: Annotated[float | None, typer.Option(help="Share of right answers at least, such as 0.95.")] = None,
    max_top1_drop: Annotated[
        float | None, typer.Option(help="Top-1 lost against the fp32 model at most, such as 0.005.")
    ] = None,
    max_ram_mb: Annotated[float | None, typer.Option(help="Host memory at most, in MiB.")] = None,
    max_vram_mb: Annotated[
        float | None, typer.Option(help="Memory of the GPU at most, in MiB; CPUs keep it.")
    ] = None,
    max_size_mb: Annotated[float | None, typer.Option(help="All files of the model at most, in MiB.")] = None,
    max_energy_j: Annotated[float | None, typer.Option(help="Joules per sample at most.")] = None,
    device: Annotated[
        list[str] | None, typer.Option(metavar="DEVICE,…", help="Only these: cpu, cuda, cuda.MODEL.")
    ] = None,
    batch_size: Annotated[list[str] | None, typer.Option(metavar="N,…", help="Only these.")] = None,
    model: Annotated[list[str] | None, typer.Option(metavar="MODEL,…", help="Only these.")] = None,
    price_per_hour: Annotated[
        list[str] | None,
        typer.Option(metavar="DEVICE=PRICE,…", help="Of an hour of a device, in any currency; 'cost' needs it."),
    ] = None,
    allow_suspect: Annotated[
        bool, typer.Option("--allow-suspect", help="SUSPECT cells beside VALID ones; INVALID ones never.")
    ] = False,
    listed: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Name so many cells of a kind at most; all are counted.  [default: 12, with --json 100]",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Which cell of a run to deploy on each device, what ties with it, and what each constraint keeps out.

    A constraint is judged at the unfavourable end of the 95 % interval; what is not known does not keep it. Ties
    are told by the rule of `compare`: the winner was not found to be better than them. Exits with 4 where nothing
    is feasible on any device.

    \b
    Examples:
      python -m results_store recommend
      python -m results_store recommend --max-p99-ms 20 --min-top1 0.95 --max-vram-mb 2000
      python -m results_store recommend nightly --objective latency --batch-size 1,8 --min-speedup 1.5
      python -m results_store recommend --objective cost --price-per-hour cpu=0.10,cuda=1.20
      # as a gate in CI, which fails where nothing can be deployed
      python -m results_store recommend latest --max-p90-ms 50 --max-top1-drop 0.005 --json
    """
    with _explained():
        bounds = {
            "max_p50_ms": max_p50_ms,
            "max_p90_ms": max_p90_ms,
            "max_p95_ms": max_p95_ms,
            "max_p99_ms": max_p99_ms,
            "min_throughput": min_throughput,
            "min_speedup": min_speedup,
            "min_top1": min_top1,
            "max_top1_drop": max_top1_drop,
            "max_ram_mb": max_ram_mb,
            "max_vram_mb": max_vram_mb,
            "max_size_mb": max_size_mb,
            "max_energy_j": max_energy_j,
        }
        question = asking.question(
            objective=objective,
            bounds=bounds,
            devices=device or (),
            batch_sizes=batch_size or (),
            models=model or (),
            prices=price_per_hour or (),
            allow_suspect=allow_suspect,
        )
        with _opened() as store:
            found = store.run(run or "latest")
            answer = recommended(rows_of(store, found.run_id).rows, question)
    if as_json:
        most = recommend_table.MOST_IN_JSON if listed is None else listed
        typer.echo(json.dumps(recommend_table.as_json(found.run_id, answer, most)))
    else:
        most = recommend_table.MOST_SHOWN if listed is None else listed
        _print(recommend_table.shown(found.title, answer, most))
    raise typer.Exit(0 if answer.is_feasible else 4)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="The reference: a run's name or id, or 'latest'.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The candidate, which may be faster or slower than A.")],
    max_regression: Annotated[
        float, typer.Option(metavar="PERCENT", min=0, help="Slowdowns up to this are no regression.")
    ] = 0.0,
    across_environments: Annotated[
        bool,
        typer.Option(
            "--across-environments", help="Compare although device, driver or versions differ, and say so."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="PATH", help="Write it as a page too, one file for people.")
    ] = None,
) -> None:
    """Which cells are faster or slower in run B than in run A, and which cannot be told.

    Needs 3 repeats of a cell or more in each run; `quick` has one, and claims no difference. Exits with 4 where a
    slowdown was found, top-1 fell, or a cell that was measured in A failed in B or is INVALID there by what it
    runs (fallback, implausible, accuracy_lost).

    \b
    Examples:
      python -m results_store compare 20260131-142500-1a2b latest
      python -m results_store compare 20260131 20260201 --across-environments --json
      python -m results_store compare nightly latest --html comparison.html
      # as a gate in CI, which fails where anything became more than 2 % slower
      python -m results_store compare "$REFERENCE_RUN" latest --max-regression 2
    """
    with _explained():
        if not math.isfinite(max_regression):  # nothing is more than that, so nothing would be a regression
            raise BadInput(f"--max-regression {max_regression:g}: a number is needed, such as --max-regression 2.")
    with _store() as store:
        reference, candidate = (store.run(asked).run_id for asked in (a, b))
        if reference == candidate:
            raise BadInput(
                f"{a!r} and {b!r} are the same run, {reference}. List others: python -m results_store runs"
            )
        report = compared(
            rows_of(store, reference), rows_of(store, candidate), across_environments=across_environments
        )
        if html is not None:
            _write_page(report, html, max_regression)
    _show(report, max_regression, as_json)
    raise typer.Exit(4 if report.regressions(max_regression) else 0)


@app.command()
def runs() -> None:
    """Lists the runs in the store, newest first.

    \b
    Example:
      python -m results_store runs
    """
    with _store() as store:
        found = store.runs()
        if not found:
            typer.echo("No runs yet. The first one: python -m producer submit-matrix --local", err=True)
        for run in found:
            when = datetime.fromtimestamp(run.created_at, UTC).isoformat(sep=" ", timespec="seconds")
            states = ", ".join(f"{count} {state}" for state, count in sorted(run.states.items()))
            typer.echo("  ".join(filter(None, (run.run_id, run.name, when, states))))


@app.command("health")
def healthy() -> None:
    """Say whether the `collate --watch` lives that has this FARM_HEALTH_FILE: exit code 0 where it does, else 1.

    \b
    Example:
      FARM_HEALTH_FILE=/run/farm/alive python -m results_store health
    """
    with _explained():
        typer.echo(health.check(load().health_file))


@app.command()
def migrate() -> None:
    """Makes the database's schema, or brings it up to date; every other command does that too.

    \b
    Example:
      FARM_DATABASE_URL=postgresql://farm:secret@db/farm python -m results_store migrate
    """
    with _store():
        typer.echo(f"Schema {REVISION}.")


def _check_together(run: str | None, watch: bool, every: float | None, metrics_port: int | None) -> None:
    """Refuses what says nothing together."""
    if watch and run is not None:
        raise BadInput(f"RUN {run!r} and --watch exclude each other: --watch writes every run. Leave one out.")
    if every is not None and not math.isfinite(every):
        raise BadInput(f"--every {every:g}: a number of seconds is needed, such as --every 5.")
    for name, value in {"--every": every, "--metrics-port": metrics_port}.items():
        if not watch and value is not None:
            raise BadInput(f"{name} belongs to --watch: add that, or leave {name} out.")


def _formats(text: str) -> tuple[str, ...]:
    """The exporters named, each once; looked up at once, so that nothing is computed for one that is not there."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        exporter(name)
    return names


def _collate(asked: str, formats: tuple[str, ...], output_dir: Path | None) -> None:
    with _opened() as store:
        run = store.run(asked)
        collated = rows_of(store, run.run_id)
        for name in formats:
            typer.echo(export(collated, output_dir or inside(RESULTS, run.folder), name))


def _write_page(report: Report, path: Path, max_regression: float) -> None:
    """The comparison as a page; where it went is said on stderr, because stdout is the comparison's."""
    # here, because nothing else of this door needs what it needs
    from results_store.report import compared

    if path.is_dir():
        raise BadInput(f"--html {path}: that is a folder. Name a file in it, such as {path / 'comparison.html'}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        compared.write(report, path, max_regression)
    except OSError as error:
        raise BadInput(f"--html {path} cannot be written: {error.strerror}. Choose another place.") from None
    typer.echo(path, err=True)


def _show(report: Report, max_regression: float, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(compare_table.as_json(report, max_regression)))
        return
    _print(
        (
            *compare_table.heading(report),
            compare_table.table(report),
            *compare_table.notes(report),
            compare_table.sentence(report, max_regression),
        )
    )


def _print(parts: Iterable[RenderableType]) -> None:
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False)
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str))


def _watch(formats: tuple[str, ...], output_dir: Path, every_s: float, serve_at: tuple[str, int | None]) -> None:
    """Rounds until a signal ends them."""
    settings, (address, port) = load(), serve_at
    say, complain = _voices(settings.log_format)
    with ExitStack() as undo:
        undo.enter_context(_until_signal())
        store = undo.enter_context(closing(LateStore(settings.database)))
        if port is not None:
            undo.enter_context(metrics.served(lambda: store().tally(), port, address))
        watching = Watch(
            store,
            output_dir,
            formats,
            say=say,
            complain=complain,
            health_file=settings.health_file,
        )
        while True:
            watching.step()
            time.sleep(every_s)


def _voices(format: logs.Format) -> tuple[Callable[[str], None], Callable[[str], None]]:
    """What says that a run is written, and what complains: plain sentences for people, log lines for machines."""
    if format == "text":
        return typer.echo, partial(typer.echo, err=True)
    logs.set_up("INFO", format)
    return log.info, log.warning


@contextmanager
def _until_signal() -> Iterator[None]:
    """What is done here ends, quietly, with the first SIGTERM or Ctrl-C; what that leaves to undo is undone."""

    def interrupt(*_: Any) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _store() -> Iterator[Store]:
    """The store, and errors as messages with exit codes."""
    with _explained(), _opened() as store:
        yield store


def _opened() -> closing[Store]:
    return closing(open_store(load().database))


@contextmanager
def _explained() -> Iterator[None]:
    """Errors as messages with exit codes."""
    try:
        yield
    except BadInput as error:
        _fail(error, 2)
    except Unreachable as error:
        _fail(error, 3)
    except FarmError as error:
        _fail(error, 1)


def _fail(error: FarmError, code: int) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise typer.Exit(code) from None


if __name__ == "__main__":
    app(prog_name="python -m results_store")
