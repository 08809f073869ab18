"""Options and arguments that several verbs share: their types, defaults, formats and exit codes."""
