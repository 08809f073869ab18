"""``Index``: a SQLite file that remembers what was scanned."""

from nsfwd.sqlite_store import PATIENCE, Index, Row, RowFailure

__all__ = ["PATIENCE", "Index", "Row", "RowFailure"]
