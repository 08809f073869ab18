"""From encoded bytes to pixels, in processes that may be killed at any moment; and the listing of directories."""
