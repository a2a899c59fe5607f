"""The store's door: `python -m results_store collate | runs | migrate`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from farm.errors import BadInput, FarmError, Unreachable
from farm.settings import Settings
from results_store.collate import collate as rows_of
from results_store.collate import export
from results_store.schema import REVISION
from results_store.store import Store, open_store

app = typer.Typer(
    help="What was measured: the CSV of a run, the runs there are, and the database's schema.\n\n\b\n"
    "The database is FARM_DATABASE_URL, or .farm/farm.db.\n"
    "Exit codes: 0 done, 1 failed, 2 usage, 3 database unreachable.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command()
def collate(
    run: Annotated[
        str, typer.Argument(metavar="[RUN]", help="A run's id, the beginning of one, or 'latest'.")
    ] = "latest",
    output_dir: Annotated[
        Path | None, typer.Option(help="Where benchmark_results.csv goes.  [default: results/RUN]")
    ] = None,
) -> None:
    """Writes benchmark_results.csv: a row for every cell of the run's matrix, measured or not.

    \b
    Examples:
      python -m results_store collate
      python -m results_store collate 20260131-142500-1a2b --output-dir /tmp/results
    """
    with _store() as store:
        run_id = store.run(run).run_id
        path = export(rows_of(store, run_id), output_dir or Path("results") / run_id)
    typer.echo(path)


@app.command()
def runs() -> None:
    """Lists the runs in the store, newest first.

    \b
    Example:
      python -m results_store runs
    """
    with _store() as store:
        for run in store.runs():
            when = datetime.fromtimestamp(run.created_at, UTC).isoformat(sep=" ", timespec="seconds")
            states = ", ".join(f"{count} {state}" for state, count in sorted(run.states.items()))
            typer.echo(f"{run.run_id}  {when}  {states}")


@app.command()
def migrate() -> None:
    """Makes the database's schema, or brings it up to date; every other command does that too.

    \b
    Example:
      FARM_DATABASE_URL=postgresql://farm:secret@db/farm python -m results_store migrate
    """
    with _store():
        typer.echo(f"Schema {REVISION}.")


@contextmanager
def _store() -> Iterator[Store]:
    """The store, and errors as messages with exit codes."""
    try:
        with closing(open_store(Settings().database)) as store:
            yield store
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
