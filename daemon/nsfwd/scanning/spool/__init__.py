"""Lists of paths that other programs hand in as files, and replies that they take away as files.

``lists`` is the directory and its jobs, ``working`` has them answered by the daemon. Knows no index.
"""
