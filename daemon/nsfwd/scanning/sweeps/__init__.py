"""Sweeps: a tree from its root to its leaves, what is new or changed judged, every file accounted for.

``sweep`` is the story, ``scout`` walks ahead of it, ``idle`` lets others go first, ``pause`` ends it in time,
``job`` says what a timer sweeps.
"""
