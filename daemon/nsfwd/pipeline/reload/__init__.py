"""The replacement of one generation by the next while requests are served."""
