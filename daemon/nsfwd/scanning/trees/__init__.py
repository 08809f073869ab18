"""Trees of files as file systems have them: walked, left out, read, and moved by their identity.

Names are bytes. Knows no index, no daemon and no verdict.
"""
