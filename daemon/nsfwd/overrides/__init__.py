"""Overrides: verdicts that people set for a content, kept in one store that the daemon and its tools read."""
