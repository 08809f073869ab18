"""Measures the daemon on this machine: ``python -m bench`` lists what. Not part of the installed package."""
