"""Sweeps: a tree from its root to its leaves, what is new or changed judged, every file accounted for.

``sweep`` is the story, ``change_detector`` walks ahead of it, ``io_priority`` lets others go first, ``pause`` ends it
in time, ``job_file`` says what a timer sweeps.
"""
