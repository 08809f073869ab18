"""Sweeps: trees are walked from the root to the leaves, new and changed files judged, and every file accounted for.

``sweep`` is the module to read first; ``change_detector`` walks ahead of it, ``pause`` ends it in time, ``job_file``
reads the files that say what a timer sweeps.
"""
