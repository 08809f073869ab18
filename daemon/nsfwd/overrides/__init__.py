"""Overrides: verdicts that people set for a content, kept in one store that the daemon and its tools share.

override_store      the store: find it by the setting, decide, take back, merge a list, read what changed
override_lists      decisions as lists in NDJSON and CSV, to keep or to take elsewhere
override_watcher    the decisions in force, for a process that keeps running
"""
