"""When a run was last resumed, and an index by which attempts are counted without reading their samples."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the column and the index."""
    op.add_column("runs", sa.Column("resumed_at", sa.Double(), nullable=True))
    op.create_index(op.f("attempts_outcome"), "attempts", ["outcome"], unique=False)
