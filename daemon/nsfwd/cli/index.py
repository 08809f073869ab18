"""``nsfwd index``: looks into what sweeps, watches and spools remember. Results on stdout, in every spelling.

Each subcommand that grows has a module of its own; they are imported when they are used.
"""

from __future__ import annotations

import click

from nsfwd.cli.options.lazy_group import LazyGroup

SUBCOMMANDS: dict[str, tuple[str, str]] = {
    "list": ("nsfwd.cli.index_views:list_files", "List files and what they came to."),
    "show": ("nsfwd.cli.index_views:show", "Show all that is known of a file."),
    "stats": ("nsfwd.cli.index_views:stats", "Count files by outcome, and show the last runs."),
    "audit": ("nsfwd.cli.index_audit:audit", "Tell of every file of a tree whether it is accounted for."),
    "rejudge": ("nsfwd.cli.index_rejudge:rejudge", "Judge all scores by the policies of today."),
    "diff": ("nsfwd.cli.index_export:diff", "Tell what became of the files between two runs."),
    "sample": ("nsfwd.cli.index_sample:sample", "Draw files for a person to look at."),
    "estimate": ("nsfwd.cli.index_sample:estimate", "Estimate precision and misses from a labelled sample."),
    "export": ("nsfwd.cli.index_export:export", "Write files as CSV, NDJSON or Parquet."),
    "relocate": ("nsfwd.cli.index_upkeep:relocate", "Follow a tree that was moved."),
    "prune": ("nsfwd.cli.index_upkeep:prune", "Forget what is long gone."),
}
"""Subcommand -> where it is, and its one line of help."""


@click.group("index", cls=LazyGroup, table=SUBCOMMANDS)
def index() -> None:
    """Look into what sweeps, watches and spools remember.

    Example: nsfwd index list --verdict sensitive
    """
