"""Tools that need an engine and a bundle together: pull, pack, import, verify. Never part of the serving path."""
