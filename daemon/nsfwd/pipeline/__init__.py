"""From an image to an outcome: admission, lanes, decoding, batching. ``pipeline.Pipeline.scan`` is the page to read."""
