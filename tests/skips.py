"""The reasons for which a test may be skipped. Any other skip is a failure, and in ``tests/apps`` every skip is."""

from __future__ import annotations

import re

ROOT = "run the tests as root"
PROGRAM = "install the program: .ci/run does"
MACHINE = "use another machine or kernel"

REASONS = {
    "{} is not installed": PROGRAM,
    "man is not installed": PROGRAM,
    "setpriv is not installed": PROGRAM,
    "root without setpriv can read everything": PROGRAM,
    "only root can be several users": ROOT,
    "only root can give a file to somebody else": ROOT,
    "only root can make a device": ROOT,
    "only root can try as another user": ROOT,
    "only root gives files away": ROOT,
    "only root may look into a process that may not be dumped": ROOT,
    "only root may mount a small disk": ROOT,
    "only root can mount a file system that keeps such times": ROOT,
    "only root can mount the kernel's file systems": ROOT,
    "only root may make a directory there": ROOT,
    "needs root, to be another user": ROOT,
    "needs root, to make files of two users": ROOT,
    "this user is not root anyway: the other tests show it": ROOT,
    "another C library, with ways of its own": MACHINE,
    "no cgroup of version 1 for memory may be made here": MACHINE,
    "no name spaces for mounts here": MACHINE,
    "no name spaces of users here": MACHINE,
    "not on this kernel: {}": MACHINE,
    "nothing may be mounted here, not even in a namespace of its own": MACHINE,
    "this machine has a GPU": MACHINE,
    "this machine has one": MACHINE,
    "this machine's queue of events is too long to fill": MACHINE,
    "this root may not give up capabilities": MACHINE,
    "this root may not mount": MACHINE,
    "this system has no full device": MACHINE,
}
"""Reason, with {} for what differs -> what it takes for the test to run."""

_ALLOWED = re.compile("|".join(re.escape(reason).replace(r"\{\}", ".+") for reason in REASONS), re.DOTALL)


def objection(reason: str, test: str) -> str:
    """Return why a test may not be skipped; empty where it may.

    Args:
        reason: what the skip says.
        test: the test's file and name.
    """
    if test.startswith("tests/apps/"):
        return f"a test of tests/apps is never skipped: {reason}"
    if _ALLOWED.fullmatch(reason):
        return ""
    return f"skipped for a reason that is not listed in tests/skips.py: {reason}"
