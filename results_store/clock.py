"""The database's clock in SQL: workers on many hosts agree on no other."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class now(FunctionElement[float]):
    """Seconds since the epoch."""

    inherit_cache = True
    type = sa.Double()


@compiles(now, "sqlite")
def _sqlite(element: now, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _postgresql(element: now, compiler: Any, **options: Any) -> str:
    # clock_timestamp: now() stands still within a transaction, however long that waited for a lock
    return "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"
