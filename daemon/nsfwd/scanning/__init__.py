"""Sweeps, watches, the index and the actions on a verdict: clients of the daemon, not parts of it."""
