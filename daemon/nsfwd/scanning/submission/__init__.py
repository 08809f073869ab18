"""Submission: files are sent to the daemon, and the results recorded.

``scan_run`` is the module to read first; ``submitter`` decides when requests go out, ``reconnecting_client`` waits for
a daemon that is gone, ``reply_mapping`` turns replies into results, and ``action_handler`` is the interface of actions.
Knows no walk and no single action.
"""
