"""Lists of paths that other programs hand in as files, and replies that they take away as files.

``spool_dir`` is the directory and its jobs, ``spool_worker`` has them answered by the daemon. Knows no index.
"""
