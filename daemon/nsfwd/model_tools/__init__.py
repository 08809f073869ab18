"""What needs an engine and a bundle together: pull, convert, pack, import, verify. Never part of the serving path."""
