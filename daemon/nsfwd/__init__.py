"""nsfwd: a scanning daemon for images."""
