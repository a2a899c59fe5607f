"""Runs, cells, jobs, attempts, results, workers and locks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes every table."""
    _locks()
    _runs()
    _workers()
    _cells()
    _jobs()
    _attempts()
    _results()


def _locks() -> None:
    op.create_table(
        "locks",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("locks_pkey")),
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("matrix_key", sa.Text(), nullable=False),
        sa.Column("matrix", sa.Text(), nullable=False),
        sa.Column("again", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("runs_pkey")),
        sa.UniqueConstraint("run_id", name=op.f("runs_run_id_key")),
    )
    op.create_index(op.f("runs_matrix_key"), "runs", ["matrix_key"], unique=False)


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("device_kind", sa.Text(), nullable=False),
        sa.Column("device_model", sa.Text(), nullable=False),
        sa.Column("device_uuid", sa.Text(), nullable=True),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("environment_key", sa.Text(), nullable=False),
        sa.Column("environment", sa.Text(), nullable=False),
        sa.Column("last_seen", sa.Double(), nullable=False),
        sa.Column("left_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("worker_id", name=op.f("workers_pkey")),
    )
    op.create_index(op.f("workers_environment_key"), "workers", ["environment_key"], unique=False)


def _cells() -> None:
    op.create_table(
        "cells",
        sa.Column("run_number", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("environment_key", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["run_number"], ["runs.number"], name=op.f("cells_run_number_fkey")),
        sa.PrimaryKeyConstraint("run_number", "ordinal", name=op.f("cells_pkey")),
    )


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("run_number", sa.Integer(), nullable=False),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("cell_ordinal", sa.Integer(), nullable=False),
        sa.Column("repeat", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=True),
        sa.Column("adoptable", sa.Boolean(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("fence", sa.Integer(), server_default="0", nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("worker_id", sa.Text(), nullable=True),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["run_number", "cell_ordinal"],
            ["cells.run_number", "cells.ordinal"],
            name=op.f("jobs_run_number_cell_ordinal_fkey"),
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("jobs_pkey")),
        sa.UniqueConstraint(
            "run_number", "cell_ordinal", "repeat", name=op.f("jobs_run_number_cell_ordinal_repeat_key")
        ),
        sa.UniqueConstraint("run_number", "ordinal", name=op.f("jobs_run_number_ordinal_key")),
    )
    op.create_index(
        "jobs_leased",
        "jobs",
        ["lease_until"],
        unique=False,
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_index(
        "jobs_open",
        "jobs",
        ["queue", "run_number", "ordinal"],
        unique=False,
        sqlite_where=sa.text("state IN ('queued', 'running')"),
        postgresql_where=sa.text("state IN ('queued', 'running')"),
    )
    op.create_index("jobs_run_number_state", "jobs", ["run_number", "state"], unique=False)


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("run_number", sa.Integer(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("environment_key", sa.Text(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("device_from", sa.Double(), nullable=True),
        sa.Column("device_until", sa.Double(), nullable=True),
        sa.Column("phase", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), server_default="", nullable=False),
        sa.Column("stale", sa.Boolean(), server_default=sa.false(), nullable=False),
        sa.Column("log_tail", sa.Text(), server_default="", nullable=False),
        sa.Column("measurement", sa.Text(), nullable=True),
        sa.Column("device_ns", sa.LargeBinary(), nullable=True),
        sa.Column("end_to_end_ns", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("attempts_job_id_fkey")),
        sa.ForeignKeyConstraint(["run_number"], ["runs.number"], name=op.f("attempts_run_number_fkey")),
        sa.ForeignKeyConstraint(["worker_id"], ["workers.worker_id"], name=op.f("attempts_worker_id_fkey")),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("attempts_pkey")),
        sa.UniqueConstraint("job_id", "fence", name=op.f("attempts_job_id_fence_key")),
    )
    op.create_index(op.f("attempts_run_number"), "attempts", ["run_number"], unique=False)


def _results() -> None:
    op.create_table(
        "results",
        sa.Column("job_id", sa.Text(), nullable=False),
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("environment_key", sa.Text(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("recorded_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["attempt_id"], ["attempts.attempt_id"], name=op.f("results_attempt_id_fkey")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.job_id"], name=op.f("results_job_id_fkey")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("results_pkey")),
    )
    op.create_index("results_key_environment_key", "results", ["key", "environment_key"], unique=False)
