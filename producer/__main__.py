"""The producer's door: `python -m producer submit-matrix | status | watch | cancel | resume | retry`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from farm import logs
from farm import weights as given_weights
from farm.errors import BadInput, FarmError, Unreachable, unknown
from farm.settings import Settings, load
from farm.spec import Matrix
from farm.verdict import Level
from producer import conduct, request, show, submit
from producer.conduct import Desk
from producer.progress import one_line, quarantined, summary
from producer.seats import Seat, seats
from results_store import metrics, names
from results_store.store import open_store

#: Where there is no terminal there is no width to keep to.
_WIDE = 200
#: What `--remeasure` takes: this verdict, or a worse one.
_LEVELS = {"suspect": Level.SUSPECT, "invalid": Level.INVALID}

app = typer.Typer(
    help="Submits matrices to the farm and shows how their runs go.\n\n\b\n"
    "Exit codes: 0 every job ended in a result (unsupported and out of memory are results),\n"
    "1 some failed, 2 usage, 3 broker or database unreachable, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Wait = Annotated[bool, typer.Option("--wait", help="Stay until the run has ended, then write the CSV.")]
Local = Annotated[
    bool, typer.Option("--local", help="Measure on this host with an embedded farm: Redis, Flower and workers.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="With --local: CPU workers side by side, on processors of their own.  [default: 1]"),
]
Output = Annotated[
    Path | None,
    typer.Option(help="Where benchmark_results.csv goes.  [default: results/NAME, or results/RUN without a name]"),
]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's name or id, the beginning of an id, or 'latest'.")
]
MetricsPort = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        min=1,
        max=65535,
        help="Meanwhile serve /metrics for Prometheus on this port of 127.0.0.1.",
    ),
]


@app.command("submit-matrix")
def submit_matrix(
    models: Annotated[
        list[str] | None, typer.Option(metavar="MODEL,…", help="Models.  [default: densenet121]")
    ] = None,
    optimizations: Annotated[
        list[str] | None, typer.Option(metavar="RECIPE,…", help="Recipes, such as channels_last+amp.")
    ] = None,
    batch_sizes: Annotated[
        list[str] | None, typer.Option(metavar="N,…", help="Batch sizes.  [default: 1,8,32]")
    ] = None,
    devices: Annotated[
        list[str] | None, typer.Option(metavar="DEVICE,…", help="cpu, cuda, cuda.MODEL.  [default: cpu]")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="digits, synthetic, image_folder:NAME.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the images in pixels.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processors of a measurement.  [default: all]")] = None,
    min_vram_mb: Annotated[
        int | None, typer.Option(metavar="MIB", help="GPU memory that a worker must have for these jobs.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Measurements of each cell.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="quick (1 repeat), standard (10), thorough (30).  [default: standard]")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="FIELD=VALUE,…", help="Fields of the protocol, such as min_calls or accuracy_samples."
        ),
    ] = None,
    eval_samples: Annotated[
        str | None, typer.Option(metavar="N|all", help="Test images of the accuracy pass.")
    ] = None,
    isolation: Annotated[
        str | None,
        typer.Option(
            metavar="fork|spawn",
            help="Measuring processes are forked from a template, or each started anew.  [default: fork]",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="pretrained|FILE", help="Published weights, or a file; trained here if not given."),
    ] = None,
    sha256: Annotated[
        str | None, typer.Option(metavar="HEX", help="What the sha256 of the file of weights must be.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of the order of measuring.  [default: 0]")] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Of the run, unique: the same name goes on with it, and refuses another matrix."),
    ] = None,
    matrix: Annotated[Path | None, typer.Option(help="A TOML file with these flags' names as keys.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells and end; nothing is written.")
    ] = False,
    wait: Wait = False,
    local: Local = False,
    workers: Workers = None,
    again: Annotated[bool, typer.Option("--again", help="Measure anew what was measured before.")] = False,
    require_workers: Annotated[
        bool,
        typer.Option(
            "--require-workers", help="Refuse where a queue has no living worker, or none has what a job needs."
        ),
    ] = False,
    output_dir: Output = None,
    metrics_port: MetricsPort = None,
) -> None:
    """Measure models × recipes × batch sizes × devices.

    Flags that name several things take commas and may be repeated. Flags override the matrix file.

    \b
    Examples:
      python -m producer submit-matrix --matrix matrices/densenet121-cpu.toml --local --wait
      python -m producer submit-matrix --optimizations baseline,channels_last+amp --batch-sizes 1,8 \\
          --protocol quick --local
      python -m producer submit-matrix --optimizations baseline,amp --threads 1 --workers 2 --local --wait
      python -m producer submit-matrix --models densenet121 --optimizations baseline,compile \\
          --devices cpu,cuda --repeats 3 --wait --output-dir results/mine
      python -m producer submit-matrix --matrix matrices/densenet121-cpu.toml --name before-upgrade --wait
      python -m producer submit-matrix --matrix matrices/densenet121-cpu.toml --dry-run
      python -m producer submit-matrix --optimizations baseline --protocol quick \\
          --set min_calls=100 --set warmup_min_calls=10 --eval-samples 64 --local
      python -m producer submit-matrix --optimizations baseline,amp --weights pretrained \\
          --dataset image_folder:imagenette --eval-samples all --local --wait
      python -m producer submit-matrix --models resnet18 --optimizations baseline \\
          --weights my.safetensors --sha256 HEX --dataset image_folder:mine --local --wait
    """
    flags = {
        "models": models,
        "optimizations": optimizations,
        "batch_sizes": batch_sizes,
        "devices": devices,
        "dataset": dataset,
        "image_size": image_size,
        "threads": threads,
        "min_vram_mb": min_vram_mb,
        "repeats": repeats,
        "protocol": protocol,
        "set": set_,
        "eval_samples": eval_samples,
        "isolation": isolation,
        "weights": weights,
        "sha256": sha256,
        "seed": seed,
    }
    with _explained():
        _check_workers(workers, local)
        if name is not None:
            names.check(name)
        _check_port(metrics_port, stays=wait or local)
        asked = request.matrix(flags, matrix)
        settings = load()
        if not dry_run:
            submit.check_writable(output_dir or conduct.RESULTS / (name or ""))
        asked = submit.with_digest(asked, settings.datasets, must_exist=local)
        asked = submit.with_model_digests(asked)
        file = request.weights_file(flags, matrix)
        submit.check_weights(asked, settings, must_exist=local and file is None)
        taken = seats(asked, workers or 1, settings.visible_gpu) if local else []
        if dry_run:
            _dry_run(asked)
            return
        code = _submitted(
            settings,
            asked,
            taken=taken,
            name=name,
            wait=wait,
            again=again,
            require_workers=require_workers,
            output=output_dir,
            weights_file=file,
            metrics_port=metrics_port,
        )
    raise typer.Exit(code)


@app.command()
def status(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="A run's name or id, or 'latest'.")] = None,
) -> None:
    """Show the runs and the living workers, or how one run stands.

    \b
    Examples:
      python -m producer status
      python -m producer status latest
    """
    with _explained(), _desk(load()) as desk:
        if run is None:
            desk.say(show.runs(desk.store.runs()))
            desk.say("")
            living = desk.store.workers()
            desk.say(
                show.workers(living) if living else "No living worker. Start one: python -m workers --device auto"
            )
            return
        progress = desk.store.progress(desk.store.run(run).run_id)
        desk.say(f"Run {progress.title}: {summary(progress)}")
        for label, worker, _ in progress.running:
            desk.say(f"running: {label} on {worker}")
        for worker, reason in progress.quarantined:
            desk.say(quarantined(worker, reason))
        for label, outcome, reason in progress.failures:
            desk.say(f"failed: {label}: {outcome}: {one_line(reason)}")
        for sentence in show.ways_back(progress):
            desk.say(sentence)


@app.command()
def watch(run: RunId = "latest", metrics_port: MetricsPort = None) -> None:
    """Show a run until it has ended; Ctrl-C ends the watching, not the run.

    On a terminal: queues, workers and what they measure, verdicts as they come; elsewhere a line now and then.

    \b
    Examples:
      python -m producer watch
      python -m producer watch 20260131-120000-1a2b --metrics-port 9108
    """
    with _explained(), _desk(load(), metrics_port) as desk:
        code = conduct.watch(desk, run)
    raise typer.Exit(code)


@app.command()
def resume(
    run: RunId, local: Local = False, workers: Workers = None, wait: Wait = False, output_dir: Output = None
) -> None:
    """Go on with a run: its cancelled jobs are queued again, and all that wait get a message.

    \b
    Examples:
      python -m producer resume latest --local
      python -m producer resume 20260131-120000-1a2b --wait
    """
    with _explained():
        code = _gone_on(run, conduct.resumed, local, workers, wait, output_dir)
    raise typer.Exit(code)


@app.command()
def retry(
    run: RunId,
    failed: Annotated[
        bool, typer.Option("--failed", help="Jobs that failed, their failures counted anew.")
    ] = False,
    remeasure: Annotated[
        str | None,
        typer.Option(
            metavar="suspect|invalid", help="Jobs whose measurement is INVALID or, with 'suspect', also SUSPECT."
        ),
    ] = None,
    local: Local = False,
    workers: Workers = None,
    wait: Wait = False,
    output_dir: Output = None,
) -> None:
    """Queue jobs of a run again that have ended. Every attempt is kept, and the mildest measurement is the result.

    Verdicts are computed anew from what was measured. What was measured stays, however the next attempt ends.

    \b
    Examples:
      python -m producer retry latest --failed --local
      python -m producer retry nightly --remeasure suspect --wait
      python -m producer retry latest --failed --remeasure invalid
    """
    with _explained():
        again = conduct.retried(failed=failed, remeasure=_level(failed, remeasure))
        code = _gone_on(run, again, local, workers, wait, output_dir)
    raise typer.Exit(code)


@app.command()
def cancel(run: RunId) -> None:
    """Stop a run: nothing more of it starts, and what is running is stopped. What was measured is kept.

    What a worker held that has vanished counts as stopped when its lease has ended, by default after 30 s: where
    it is still running then, cancel the run again.

    \b
    Examples:
      python -m producer cancel latest
      python -m producer cancel 20260131-120000-1a2b
    """
    with _explained(), _desk(load()) as desk:
        found = desk.store.run(run)
        queued, running = desk.store.cancel(found.run_id)
        if found.finished:
            desk.say(f"Run {found.title} has ended already: nothing of it waits or runs.")
            for sentence in show.ways_back(found):
                desk.say(sentence)
            return
        desk.say(f"Run {found.title}: {queued} waiting jobs cancelled, {running} running ones are being stopped.")
        back = f"python -m producer resume {found.handle} (with --local for an embedded farm)"
        desk.say(f"Bring them back with: {back}")


def main() -> NoReturn:
    """Runs the command line."""
    app(prog_name="python -m producer")
    raise SystemExit(0)


def _submitted(
    settings: Settings,
    matrix: Matrix,
    *,
    taken: list[Seat],
    name: str | None,
    again: bool,
    require_workers: bool,
    wait: bool,
    output: Path | None,
    weights_file: Path | None,
    metrics_port: int | None,
) -> int:
    """Everything that can be refused is looked at before the store is opened, and that before it is written.

    Seats are those of an embedded farm, which measures; without any the jobs go to the farm of the broker.
    """
    broker_url = _broker_first(settings, bool(taken))
    with _desk(settings, metrics_port) as desk:
        if name is not None:
            desk.store.require_name(name, matrix, again=again)
        _keep(matrix, weights_file, settings)
        if taken:
            return conduct.on_this_host(desk, matrix, taken, name=name, again=again, output=output)
        return conduct.in_the_farm(
            desk,
            matrix,
            broker_url,
            name=name,
            again=again,
            require_workers=require_workers,
            wait=wait,
            output=output,
        )


def _gone_on(
    run: str, again: conduct.Again, local: bool, workers: int | None, wait: bool, output: Path | None
) -> int:
    """Queues jobs of a run again and, with `--local`, measures them; the exit code."""
    _check_workers(workers, local)
    settings = load()
    submit.check_writable(output or conduct.RESULTS)
    broker_url = _broker_first(settings, local)
    with _desk(settings) as desk:
        if local:
            return conduct.go_on_on_this_host(desk, run, again, workers or 1, output=output)
        return conduct.go_on_in_the_farm(desk, run, again, broker_url, wait=wait, output=output)


def _level(failed: bool, remeasure: str | None) -> Level | None:
    """What `--remeasure` names."""
    if remeasure is None:
        if not failed:
            raise BadInput(
                "What is to be tried again? Add --failed for jobs that failed, --remeasure suspect (or invalid) "
                "for those whose measurement cannot be trusted, or both."
            )
        return None
    if remeasure not in _LEVELS:
        raise BadInput(f"--remeasure: {unknown('verdict', remeasure, _LEVELS)}")
    return _LEVELS[remeasure]


def _check_workers(workers: int | None, local: bool) -> None:
    if workers is not None and not local:
        raise BadInput(
            "--workers belongs to --local. Without it, start workers yourself: python -m workers --help"
        )


def _check_port(port: int | None, *, stays: bool) -> None:
    if port is not None and not stays:
        raise BadInput("--metrics-port belongs to --wait or --local: nobody would be there to answer.")


def _keep(matrix: Matrix, file: Path | None, settings: Settings) -> None:
    if file is not None and matrix.weights is not None:
        given_weights.keep(matrix.weights, file, settings.weights)


def _broker_first(settings: Settings, local: bool) -> str:
    """The broker's URL once it answered; an embedded farm may do without one."""
    return "" if local and not settings.broker_url else submit.require_broker(settings)


def _dry_run(matrix: Matrix) -> None:
    console = _console()
    console.print(show.cells(matrix))
    console.print(show.estimate(matrix), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _desk(settings: Settings, metrics_port: int | None = None) -> Iterator[Desk]:
    if settings.log_format == "json":  # people are told the same on stdout
        logs.set_up("INFO", "json")
    with ExitStack() as held:
        store = held.enter_context(closing(open_store(settings.database)))
        if metrics_port is not None:
            held.enter_context(metrics.served(store.tally, metrics_port))
        yield Desk(settings=settings, store=store, console=_console())


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else _WIDE)


@contextmanager
def _explained() -> Iterator[None]:
    """Turns what can be foreseen into a message and an exit code; SIGTERM and SIGHUP end us like Ctrl-C."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup means it
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        yield
    except BadInput as error:
        _fail(str(error), 2)
    except Unreachable as error:
        _fail(str(error), 3)
    except FarmError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise typer.Exit(code) from None


if __name__ == "__main__":
    main()
