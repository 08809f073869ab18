"""The index: a SQLite file that remembers the files of trees and the result of each.

``database`` is the file and the one border to sqlite3, ``schema`` its tables; ``file_table`` writes what files came to,
``runs`` who wrote it, ``rejudge`` has a new policy judge it, ``maintenance`` keeps it small. Knows no daemon and no
action.
"""
