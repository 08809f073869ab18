"""``nsfwd index``: queries and maintenance of the index that sweeps and watches keep. Results go to stdout.

Each subcommand that grows has a module of its own; they are imported when they are used.
"""

from __future__ import annotations

import click

from nsfwd.cli.options.lazy_group import LazyGroup

SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "list": ("nsfwd.cli.index_views:list_files", "List files and their outcomes."),
    "show": ("nsfwd.cli.index_views:show", "Show all records of a file."),
    "stats": ("nsfwd.cli.index_views:stats", "Count files by outcome, and show the last runs."),
    "audit": ("nsfwd.cli.index_audit:audit", "Check that the index accounts for every file of a tree."),
    "rejudge": ("nsfwd.cli.index_rejudge:rejudge", "Apply the present policies to all kept scores."),
    "diff": ("nsfwd.cli.index_export:diff", "Show the changes between two runs."),
    "sample": ("nsfwd.cli.index_sample:sample", "Draw files for a person to label."),
    "estimate": ("nsfwd.cli.index_sample:estimate", "Estimate precision and misses from a labelled sample."),
    "export": ("nsfwd.cli.index_export:export", "Write files as CSV, NDJSON or Parquet."),
    "relocate": ("nsfwd.cli.index_upkeep:relocate", "Update the index after a tree was moved."),
    "prune": ("nsfwd.cli.index_upkeep:prune", "Delete old records of files that no longer exist."),
}
"""Subcommand -> its function, and its line of help."""


@click.group("index", cls=LazyGroup, table=SUBCOMMANDS)
def index() -> None:
    """Query and maintain the index that sweeps and watches keep.

    Example: nsfwd index list --verdict sensitive
    """
