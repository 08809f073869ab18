"""What is done about a verdict, each once, and how it is undone.

``executor`` decides and writes it down, ``breaker`` stops a run that would do too much, ``hook`` tells a program of the
site; the rest is the quarantine: ``move_out``, ``recovery`` after a kill, ``restore``, and the ``action_rows`` of who
came back. Knows no daemon; nothing deletes.
"""
