"""What is done about a verdict, each once, and how it is undone.

``acting`` decides and writes it down, ``breaker`` stops a run that would do too much, ``hook`` tells a program of the
site; the rest is the quarantine: ``taking``, ``recovery`` after a kill, ``restore``, and the ``register`` of who came
back. Knows no daemon; nothing deletes.
"""
