"""From a path or a descriptor to pixels in a slot: the decoder pool, the result cache and the list of files."""
