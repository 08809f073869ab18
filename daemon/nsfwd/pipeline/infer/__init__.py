"""From pixels in a slot to scores: batches, the engine process and the views of one image."""
