"""Having the daemon judge files: what is in flight, what is waited for, what is asked again, what is recorded.

``asking`` is the story; ``door`` the daemon as a run meets it, ``window`` how much goes out at once, ``spelling`` what
replies say, ``actor`` what a run wants of whoever acts on them. Knows no walk and no single action.
"""
