"""Admission, fair queues, tickets, deadlines and slots: which image is served next, and until when."""
