"""The command line: one file for each group of verbs, imported when used. Knows clients and settings, no engine."""
