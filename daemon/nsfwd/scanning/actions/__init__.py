"""Actions on verdicts, each done once, and how they are undone.

``executor`` decides and writes rows, ``breaker`` stops a run that would act on too many files, ``hook`` runs a program.
The rest is the quarantine: ``move_out``, ``recovery`` after a kill, ``restore``, and ``action_rows``, the rows of files
that were taken. Knows no daemon; nothing deletes.
"""
