"""What a farm in production needs: runs with names, devices in quarantine, jobs that were handed back."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Adds the columns."""
    op.add_column("runs", sa.Column("name", sa.Text(), nullable=True))
    op.create_index(op.f("runs_name"), "runs", ["name"], unique=True)
    op.add_column("jobs", sa.Column("hand_backs", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("workers", sa.Column("quarantined", sa.Text(), nullable=True))
    op.add_column("workers", sa.Column("quarantined_since", sa.Double(), nullable=True))
