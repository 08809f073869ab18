"""Reports about an index: lists, tables, pages, audits, samples and comparisons.

Reads rows and, for thumbnails and audits, files; writes none and moves none.
"""
