"""The index: a SQLite file that remembers which files there were and what each came to.

``database`` is the file and the one border to sqlite3, ``schema`` its tables; ``ledger`` writes what files came to,
``runs`` who wrote it, ``rejudge`` has a new policy judge it, ``upkeep`` keeps it small. Knows no daemon and no action.
"""
