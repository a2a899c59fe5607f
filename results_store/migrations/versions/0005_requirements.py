"""What jobs ask of their workers. Cells of before ask for nothing: every worker of their queue may take them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Adds the column, and the table of all there are."""
    op.add_column("cells", sa.Column("requirement", sa.Text(), nullable=True))
    op.create_table(
        "requirements",
        sa.Column("requirement", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("requirement", name=op.f("requirements_pkey")),
    )
