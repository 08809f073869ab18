"""Having the daemon judge files: what is in flight, what is waited for, what is asked again, what is recorded.

``scan_run`` is the story; ``reconnecting_client`` the daemon as a run meets it, ``submitter`` how much goes
out at once, ``reply_mapping`` what replies say, ``action_handler`` what a run wants of whoever acts on them. Knows no
walk and no single action.
"""
