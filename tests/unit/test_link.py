"""Links: packets stay whole, descriptors travel, and the end of the other process is told after its last word."""

from __future__ import annotations

import os
import tempfile

import pytest

from nsfwd.ipc.link import MAX_DESCRIPTORS, MAX_PACKET, Link


def test_packets_keep_their_borders() -> None:
    one, other = Link.pair()
    packets = [b"a", b"b" * MAX_PACKET, b"c" * 1000]
    one.send(packets[0])
    assert other.receive() == (packets[0], [])
    one.send(packets[1])
    assert other.receive() == (packets[1], [])
    one.send(packets[2])
    assert other.receive() == (packets[2], [])


def test_descriptors_are_copies_in_order_and_not_inherited() -> None:
    one, other = Link.pair()
    with tempfile.TemporaryFile() as first, tempfile.TemporaryFile() as second:
        first.write(b"first")
        second.write(b"second")
        first.flush()
        second.flush()
        one.send(b"two files", [first.fileno(), second.fileno()])
    packet, descriptors = other.receive()
    assert packet == b"two files"
    assert [os.pread(fd, 99, 0) for fd in descriptors] == [b"first", b"second"]
    assert not any(os.get_inheritable(fd) for fd in descriptors)
    for fd in descriptors:
        os.close(fd)


@pytest.mark.parametrize("packet", [b"", b"x" * (MAX_PACKET + 1)])
def test_what_is_no_packet_is_the_senders_defect(packet: bytes) -> None:
    one, _other = Link.pair()
    with pytest.raises(ValueError, match="can be sent"):
        one.send(packet)


def test_too_many_descriptors_are_the_senders_defect() -> None:
    one, _other = Link.pair()
    with pytest.raises(ValueError, match="descriptors in a packet"):
        one.send(b"x", [0] * (MAX_DESCRIPTORS + 1))


def test_the_most_descriptors_arrive() -> None:
    one, other = Link.pair()
    one.send(b"x", [one.fileno()] * MAX_DESCRIPTORS)
    _, descriptors = other.receive()
    assert len(descriptors) == MAX_DESCRIPTORS
    for fd in descriptors:
        os.close(fd)


def test_a_full_link_says_so_when_it_may_not_wait() -> None:
    one, other = Link.pair()
    one.set_blocking(False)
    other.set_blocking(False)
    with pytest.raises(BlockingIOError):
        other.receive()
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            one.send(b"x" * 10_000)
            sent += 1
    for _ in range(sent):
        assert len(other.receive()[0]) == 10_000


def test_the_end_is_told_behind_the_last_packet() -> None:
    one, other = Link.pair()
    one.send(b"last")
    one.close()
    assert other.receive() == (b"last", [])
    with pytest.raises(EOFError):
        other.receive()
    with pytest.raises(EOFError):
        other.send(b"too late")


def test_unread_packets_of_the_dead_do_not_hide_its_last_words() -> None:
    """The kernel reports ECONNRESET ahead of queued packets when a peer ends without having read everything."""
    one, other = Link.pair()
    other.send(b"never read")
    one.send(b"last words")
    one.close()
    assert other.receive() == (b"last words", [])
    with pytest.raises(EOFError):
        other.receive()


def test_ending_one_direction_leaves_the_other() -> None:
    server, child = Link.pair()
    server.end()
    server.end()
    with pytest.raises(EOFError):
        child.receive()
    child.send(b"bye")
    assert server.receive() == (b"bye", [])


def test_a_link_knows_who_made_it() -> None:
    one, _other = Link.pair()
    assert one.peer_pid() == os.getpid()
