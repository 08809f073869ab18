"""Engines: pixels in, probabilities out. Knows one bundle and one device; nothing of files, requests or verdicts."""
