"""Watches: every file soon after it was written, told of by the kernel, and swept where that tells too little.

``watch`` is the story; ``inotify`` the kernel's events, ``inotify_tree`` what they come to, ``debounce`` waits for
writers, ``root_state`` sees when a tree's name stands for another directory.
"""
