"""nsfwd beside other programs of Debian: run by ``make test-apps``, as root, and never skipped."""
