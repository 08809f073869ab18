"""What may be opened: regular files below the roots, and nothing is told of the rest."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwd.errors import CodedError
from nsfwd.imaging.safe_open import LOOKS, IsDirectory, Roots, is_worth_naming, open_directory, open_image
from tests.descriptors import all_closed

EVERYWHERE = Roots([b"/"])


@pytest.fixture
def tree(public: Path) -> Path:
    """A root ``in`` with a bit of everything, and things outside it."""
    inside = public / "in"
    (inside / "sub").mkdir(parents=True)
    (public / "out").mkdir()
    (public / "inside-by-name-only").mkdir()
    for file in ("in/a.jpg", "in/sub/b.jpg", "in/named (deleted)", "out/c.jpg", "inside-by-name-only/d.jpg"):
        (public / file).write_bytes(file.encode())
    os.mkfifo(inside / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(inside / "socket"))
    for name, target in {
        "good": "a.jpg",
        "up": "sub/../a.jpg",
        "to-out": "../out/c.jpg",
        "to-nothing-outside": "../out/missing.jpg",
        "to-out-dir": "../out",
        "dangling": "missing.jpg",
        "loop": "loop",
        "to-fifo": "fifo",
        "to-sub": "sub",
        "root": "/",
    }.items():
        (inside / name).symlink_to(target)
    return public


def code(path: bytes | Path, roots: Roots) -> str:
    """What becomes of a path: its code, ``is_directory``, or ``ok``."""
    try:
        fd = open_image(os.fsencode(path), roots)
    except IsDirectory:
        return "is_directory"
    except CodedError as error:
        return error.code
    os.close(fd)
    return "ok"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("in/a.jpg", "ok"),
        ("in/sub/b.jpg", "ok"),
        ("in/./sub//../a.jpg", "ok"),
        ("in/good", "ok"),
        ("in/up", "ok"),
        ("in/named (deleted)", "ok"),
        ("out/../in/a.jpg", "ok"),
        ("in", "is_directory"),
        ("in/sub/", "is_directory"),
        ("in/to-sub", "is_directory"),
        ("in/fifo", "fifo"),
        ("in/to-fifo", "fifo"),
        ("in/socket", "socket"),
        ("in/missing.jpg", "not_found"),
        ("in/missing/deeper/e.jpg", "not_found"),
        ("in/a.jpg/", "not_found"),
        ("in/a.jpg/x", "not_found"),
        ("in/dangling", "not_found"),
        ("in/loop", "bad_path"),
        ("in/" + "n" * 300, "bad_path"),
        # whatever lies outside is forbidden, there or not, and whatever it is
        ("out/c.jpg", "forbidden"),
        ("out/missing.jpg", "forbidden"),
        ("out", "forbidden"),
        ("out/c.jpg/x", "forbidden"),
        ("out/" + "n" * 300, "forbidden"),
        ("inside-by-name-only/d.jpg", "forbidden"),
        ("in/to-out", "forbidden"),
        ("in/to-nothing-outside", "forbidden"),
        ("in/to-out-dir/c.jpg", "forbidden"),
        ("in/to-out-dir/missing.jpg", "forbidden"),
        ("in/../out/missing.jpg", "forbidden"),
        ("in/missing/../../out/c.jpg", "forbidden"),
        ("in/root/etc/passwd", "forbidden"),
        ("in/root/etc/missing", "forbidden"),
    ],
)
def test_below_a_root(tree: Path, path: str, expected: str) -> None:
    assert code(os.fsencode(tree) + b"/" + path.encode(), Roots([os.fsencode(tree / "in")])) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"", "bad_path"),
        (b"/a\0b", "bad_path"),
        (b"/" + b"a/" * 2048, "bad_path"),
        (b"a.jpg", "relative_path"),
        (b"~/a.jpg", "relative_path"),
        (b"/no/such/file", "not_found"),
        (b"/proc/self/status", "forbidden"),
        (b"/proc/missing", "forbidden"),
        (b"/proc", "forbidden"),
        (b"/sys/kernel", "forbidden"),
        (b"/dev", "forbidden"),
        (b"/dev/missing", "forbidden"),
        (b"/dev/zero", "device"),
        (b"/", "is_directory"),
    ],
)
def test_where_everything_is_allowed(path: bytes, expected: str) -> None:
    assert code(path, EVERYWHERE) == expected


def test_devices_outside_the_roots_are_forbidden(tree: Path) -> None:
    assert code(b"/dev/zero", Roots([os.fsencode(tree / "in")])) == "forbidden"


def test_memory_of_this_process_cannot_be_reached_through_proc() -> None:
    fd = os.memfd_create("secret")
    os.write(fd, b"secret")
    assert code(b"/proc/self/fd/%d" % fd, EVERYWHERE) == "not_found"  # it lies nowhere
    os.close(fd)


def test_a_deleted_file_is_not_found_inside_and_forbidden_outside(tree: Path) -> None:
    for place, expected in (("in", "not_found"), ("out", "forbidden")):
        with (tree / place / "gone.jpg").open("wb") as file:
            (tree / place / "gone.jpg").unlink()
            assert code(b"/proc/self/fd/%d" % file.fileno(), Roots([os.fsencode(tree / "in")])) == expected


def test_the_descriptor_reads_that_file_without_waiting(tree: Path) -> None:
    fd = open_image(os.fsencode(tree / "in/good"), Roots([os.fsencode(tree / "in")]))
    assert os.read(fd, 99) == b"in/a.jpg"
    assert not os.get_blocking(fd)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_names_are_bytes(tree: Path) -> None:
    path = os.fsencode(tree / "in") + b"/\xff\xfe\n.jpg"
    with open(path, "wb") as file:  # noqa: PTH123 - Path knows no such names
        file.write(b"x")
    assert code(path, Roots([os.fsencode(tree / "in")])) == "ok"


def test_a_root_may_be_a_link_and_may_move(tree: Path) -> None:
    (tree / "current").symlink_to("in")
    roots = Roots([os.fsencode(tree / "current")])
    assert code(tree / "current/a.jpg", roots) == "ok"
    assert code(tree / "out/c.jpg", roots) == "forbidden"
    (tree / "current").unlink()
    (tree / "current").symlink_to("out")
    assert code(tree / "current/c.jpg", roots) == "ok"


def test_a_root_that_is_not_there_yet(tree: Path) -> None:
    roots = Roots([os.fsencode(tree / "later")])
    assert code(tree / "later/a.jpg", roots) == "not_found"
    assert code(tree / "other/a.jpg", roots) == "forbidden"
    (tree / "later").mkdir()
    (tree / "later/a.jpg").write_bytes(b"x")
    assert code(tree / "later/a.jpg", roots) == "ok"


@pytest.fixture
def nobody() -> Iterator[None]:
    """Without root's privileges over files."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_closed_files_and_directories(tree: Path, request: pytest.FixtureRequest) -> None:
    (tree / "in/closed.jpg").write_bytes(b"x")
    (tree / "in/closed.jpg").chmod(0)
    for name in ("in/closed", "out/closed"):
        (tree / name).mkdir()
        (tree / name / "a.jpg").write_bytes(b"x")
        (tree / name).chmod(0)
    roots = Roots([os.fsencode(tree / "in")])
    request.getfixturevalue("nobody")
    assert code(tree / "in/closed.jpg", roots) == "permission"
    assert code(tree / "in/closed/a.jpg", roots) == "permission"
    assert code(tree / "in/closed/missing.jpg", roots) == "permission"
    assert code(tree / "out/closed/a.jpg", roots) == "forbidden"
    assert code(tree / "out/closed/missing.jpg", roots) == "forbidden"


def test_directories_are_opened_by_the_same_rules(tree: Path) -> None:
    roots = Roots([os.fsencode(tree / "in")])
    os.close(open_directory(os.fsencode(tree / "in/to-sub"), roots))
    for path, expected in (("in/a.jpg", "not_found"), ("in/missing", "not_found"), ("in/to-out-dir", "forbidden")):
        with pytest.raises(CodedError) as caught:
            open_directory(os.fsencode(tree / path), roots)
        assert caught.value.code == expected


def test_links_worth_naming(tree: Path) -> None:
    roots = Roots([os.fsencode(tree / "in")])
    named = {entry.name for entry in (tree / "in").iterdir() if entry.is_symlink()}
    named = {name for name in named if is_worth_naming(os.fsencode(tree / "in" / name), roots)}
    assert named == {"good", "up", "to-out", "to-nothing-outside", "to-out-dir", "root"}


def test_nothing_stays_open(tree: Path) -> None:
    roots = Roots([os.fsencode(tree / "in")])
    with all_closed():
        for path in sorted(tree.rglob("*")):
            code(path, roots)


def test_a_link_that_goes_while_it_is_followed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roots = Roots([os.fsencode(tree / "in")])
    real, left = os.path.realpath, [3]

    def realpath(path: bytes) -> bytes:
        if left[0]:
            left[0] -= 1
            raise FileNotFoundError(2, "No such file or directory")
        return real(path)

    monkeypatch.setattr(os.path, "realpath", realpath)
    assert code(tree / "in" / "missing.jpg", roots) == "not_found"
    left[0] = 3
    assert code(tree / "out" / "missing.jpg", roots) == "forbidden"
    left[0] = LOOKS
    assert code(tree / "in" / "missing.jpg", roots) == "forbidden"  # it may lead anywhere


def test_narrower_roots_allow_what_lies_below_both(tmp_path: Path) -> None:
    for name in ("wide/mail", "wide/other", "beyond"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.jpg").touch()
    (tmp_path / "wide" / "mail" / "out.jpg").symlink_to(tmp_path / "wide" / "other" / "a.jpg")
    wide = Roots([os.fsencode(tmp_path / "wide")])
    mail = wide.narrowed((os.fsencode(tmp_path / "wide" / "mail"),))
    assert wide.narrowed(()) is wide
    assert wide.narrowed((os.fsencode(tmp_path / "wide" / "mail"),)) is mail
    os.close(open_image(os.fsencode(tmp_path / "wide" / "mail" / "a.jpg"), mail))
    for name in ("wide/other/a.jpg", "wide/other/none.jpg", "wide/mail/out.jpg", "beyond/a.jpg", "wide"):
        with pytest.raises(CodedError) as caught:
            open_image(os.fsencode(tmp_path / name), mail)
        assert caught.value.code == "forbidden", name
    outside = wide.narrowed((os.fsencode(tmp_path / "beyond"),))
    with pytest.raises(CodedError, match="forbidden"):
        open_image(os.fsencode(tmp_path / "beyond" / "a.jpg"), outside)
