"""Watches: every file is judged soon after it was written; the kernel reports changes, sweeps find what it misses.

``watch`` is the module to read first; ``inotify`` reads the kernel's events, ``inotify_tree`` turns them into files
and directories, ``debounce`` waits until a file is no longer written.
"""
