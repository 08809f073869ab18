"""Sweeps, watches, the index and the actions on a verdict: clients of the daemon, not parts of it.

    watches     every file soon after it was written
    sweeps      a tree from its root to its leaves, and every file of it accounted for
    actions     what is done about a verdict: log, copy, hook, move, quarantine, and the way back
    reports     what an index tells people: lists, tables, pages, audits, samples, comparisons
    spool       lists of paths that other programs hand in as files
    dispatch    having the daemon judge files, and recording what they came to
    index       the SQLite file that remembers, its rows and their upkeep
    trees       what a file system is to all of them: walks, patterns, names, reading, moving

Each imports only what stands below it; ``actions``, ``reports`` and ``spool`` know nothing of each other.
"""
