"""The tables. A change here needs a migration in `migrations/versions`, and `REVISION` names the newest."""

from __future__ import annotations

import sqlalchemy as sa

#: The migration that these tables agree with.
REVISION = "0005"

metadata = sa.MetaData(
    naming_convention={
        "ix": "%(table_name)s_%(column_0_N_name)s",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
        "pk": "%(table_name)s_pkey",
    }
)

runs = sa.Table(
    "runs",
    metadata,
    #: Order of creation; jobs are claimed in it.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("run_id", sa.Text, nullable=False, unique=True),
    #: Chosen by the user; null where none was.
    sa.Column("name", sa.Text, index=True, unique=True),
    sa.Column("matrix_key", sa.Text, nullable=False, index=True),
    sa.Column("matrix", sa.Text, nullable=False),
    sa.Column("again", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    #: When jobs that had ended were last queued again: an ended run changes in no other way.
    sa.Column("resumed_at", sa.Double),
)

cells = sa.Table(
    "cells",
    metadata,
    sa.Column("run_number", sa.ForeignKey("runs.number"), primary_key=True),
    #: Place in the matrix, as the user wrote it.
    sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("spec", sa.Text, nullable=False),
    #: The baseline measured again and again to see the host drift: no row of the matrix.
    sa.Column("is_control", sa.Boolean, nullable=False, server_default=sa.false()),
    #: Class to which the first claim bound the repeats; null before it.
    sa.Column("environment_key", sa.Text),
    #: What it asks of its worker beyond its queue, as JSON (`farm/requirement.py`); null where nothing.
    sa.Column("requirement", sa.Text),
)

#: Every requirement that any cell has: few, so that a claim may look at all of them.
requirements = sa.Table("requirements", metadata, sa.Column("requirement", sa.Text, primary_key=True))

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("run_number", sa.Integer, nullable=False),
    #: Order of measuring within the run.
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("cell_ordinal", sa.Integer, nullable=False),
    sa.Column("repeat", sa.Integer, nullable=False),
    #: Key of the spec: equal jobs, equal keys, in whatever run.
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    #: Processors asked for; null takes what the worker has.
    sa.Column("threads", sa.Integer),
    sa.Column("adoptable", sa.Boolean, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    #: Grows with every claim: whoever writes under an older one is late.
    sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
    sa.Column("losses", sa.Integer, nullable=False, server_default="0"),
    #: Attempts after which the device failed its probe: no failures of the job, unless it happens again and again.
    sa.Column("hand_backs", sa.Integer, nullable=False, server_default="0"),
    #: Measurements that were made again because others or the host had spoilt them.
    sa.Column("remeasured", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_until", sa.Double),
    sa.Column("worker_id", sa.Text),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("outcome", sa.Text),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    sa.UniqueConstraint("run_number", "ordinal"),
    sa.UniqueConstraint("run_number", "cell_ordinal", "repeat"),
    sa.ForeignKeyConstraint(["run_number", "cell_ordinal"], ["cells.run_number", "cells.ordinal"]),
)


def is_open(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Queued or running. Literals, not parameters: only so is the partial index recognised."""
    return table.c.state.in_([sa.literal_column("'queued'"), sa.literal_column("'running'")])


def is_running(table: sa.FromClause) -> sa.ColumnElement[bool]:
    """Running, as the partial index says it."""
    return table.c.state == sa.literal_column("'running'")


def is_of_matrix(run_number: int) -> sa.ColumnElement[bool]:
    """Whether a job of this run is a cell's, and not a control's."""
    controls = sa.select(cells.c.ordinal).where(cells.c.run_number == run_number, cells.c.is_control)
    return jobs.c.cell_ordinal.not_in(controls)


#: What is left to do, in claim order: ended jobs, however many, cost a claim nothing.
sa.Index(
    "jobs_open",
    jobs.c.queue,
    jobs.c.run_number,
    jobs.c.ordinal,
    sqlite_where=is_open(jobs),
    postgresql_where=is_open(jobs),
)
sa.Index("jobs_leased", jobs.c.lease_until, sqlite_where=is_running(jobs), postgresql_where=is_running(jobs))
sa.Index("jobs_run_number_state", jobs.c.run_number, jobs.c.state)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("worker_id", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("device_kind", sa.Text, nullable=False),
    sa.Column("device_model", sa.Text, nullable=False),
    sa.Column("device_uuid", sa.Text),
    #: JSON list.
    sa.Column("queues", sa.Text, nullable=False),
    sa.Column("threads", sa.Integer, nullable=False),
    sa.Column("environment_key", sa.Text, nullable=False, index=True),
    sa.Column("environment", sa.Text, nullable=False),
    sa.Column("last_seen", sa.Double, nullable=False),
    #: Why its device is not used, and since when; null where it is.
    sa.Column("quarantined", sa.Text),
    sa.Column("quarantined_since", sa.Double),
    #: When it said goodbye; null while it serves.
    sa.Column("left_at", sa.Double),
)

attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("attempt_id", sa.Text, primary_key=True),
    sa.Column("job_id", sa.ForeignKey("jobs.job_id"), nullable=False),
    sa.Column("run_number", sa.ForeignKey("runs.number"), nullable=False, index=True),
    sa.Column("fence", sa.Integer, nullable=False),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("worker_id", sa.ForeignKey("workers.worker_id"), nullable=False),
    sa.Column("environment_key", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
    sa.Column("device_from", sa.Double),
    sa.Column("device_until", sa.Double),
    sa.Column("phase", sa.Text),
    sa.Column("outcome", sa.Text, index=True),
    sa.Column("reason", sa.Text, nullable=False, server_default=""),
    #: Its fence had moved on when it ended: kept, but no result.
    sa.Column("stale", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("log_tail", sa.Text, nullable=False, server_default=""),
    #: The measurement as JSON, without its samples.
    sa.Column("measurement", sa.Text),
    #: zlib of little-endian int64 nanoseconds.
    sa.Column("device_ns", sa.LargeBinary),
    sa.Column("end_to_end_ns", sa.LargeBinary),
    sa.Column("control_ns", sa.LargeBinary),
    #: The profile's operators as JSON, and its trace in Chrome's format, zlib.
    sa.Column("operators", sa.Text),
    sa.Column("trace", sa.LargeBinary),
    sa.UniqueConstraint("job_id", "fence"),
)

results = sa.Table(
    "results",
    metadata,
    #: One result per job, whoever else believes to have one.
    sa.Column("job_id", sa.ForeignKey("jobs.job_id"), primary_key=True),
    #: Another job's attempt where the result was adopted.
    sa.Column("attempt_id", sa.ForeignKey("attempts.attempt_id"), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("environment_key", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("recorded_at", sa.Double, nullable=False),
    sa.Index("results_key_environment_key", "key", "environment_key"),
)

locks = sa.Table(
    "locks",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
)
