"""The index: a SQLite file that remembers which files there were and what each came to.

``database`` is the file and the one border to sqlite3, ``schema`` its tables; ``file_table`` writes what files came to,
``runs`` who wrote it, ``rejudge`` has a new policy judge it, ``maintenance`` keeps it small. Knows no daemon and no
action.
"""
