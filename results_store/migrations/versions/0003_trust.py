"""What makes numbers trusted: live controls, repeated controls, measurements made again, profiles."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Adds the columns."""
    op.add_column("cells", sa.Column("is_control", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("jobs", sa.Column("remeasured", sa.Integer(), nullable=False, server_default="0"))
    for name, kind in (("control_ns", sa.LargeBinary), ("operators", sa.Text), ("trace", sa.LargeBinary)):
        op.add_column("attempts", sa.Column(name, kind(), nullable=True))
