"""Admission, fair queues, tickets, deadlines and slots: who is served next, and until when."""
