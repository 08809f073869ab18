"""Changed settings and bundles take over without a dropped request, or are refused while the old ones serve on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from nsfwd.model_tools.staging import installing, staged
from nsfwd.model_tools.versions import roll_back
from tests import pictures
from tests.echo_bundle import echo_bundle
from tests.integration.harness import Daemon, Json, ask, ndjson, raw_connect, replies, spell, wait_until
from tests.integration.pressure import FEW_SLOTS, REAL, Load, hold_engine, served


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.jpg"
    path.write_bytes(pictures.encoded(pictures.photo(1), "JPEG"))
    return path


class Site:
    """A daemon whose settings stand in a file."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.file = directory / "nsfwd.toml"
        self.write(max_pixels=1_000_000)
        flags = ["--config", str(self.file), *options.pop("flags", ())]
        self.daemon = Daemon(directory, flags=flags, **options)

    def write(self, **settings: object) -> None:
        self.file.write_text("".join(f"{name} = {value}\n" for name, value in settings.items()), "utf-8")

    def reload(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nsfwd.cli.main", "reload", "--connect", f"unix:{self.daemon.unix}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    with site.daemon:
        yield site


def limit(site: Site) -> int:
    return int(ask(site.daemon.unix, {"op": "version"})["limits"]["max_pixels"])


def engines(site: Site) -> list[int]:
    found: list[int] = ask(site.daemon.unix, {"op": "stats"})["engine"]["processes"]
    return found


def test_a_reload_under_load_loses_nothing(site: Site, photo: Path) -> None:
    before, count = engines(site), 2000
    found: list[Json] = []
    with raw_connect(site.daemon.unix) as connection:

        def read() -> None:
            rest = b""
            while len(found) < count and (part := connection.recv(1 << 16)):
                whole, _, rest = (rest + part).rpartition(b"\n")
                found.extend(replies(whole))

        reader = threading.Thread(target=read)
        reader.start()
        connection.sendall(b"".join(spell({"id": number, "path": str(photo)}) for number in range(count // 2)))
        site.write(max_pixels=2_000_000, decoders=1)
        done = site.reload()
        connection.sendall(b"".join(spell({"id": number, "path": str(photo)}) for number in range(count // 2, count)))
        reader.join(60)
    assert done.returncode == 0, done.stderr
    assert sorted(reply["id"] for reply in found) == list(range(count))
    assert {reply["status"] for reply in found} == {"ok"}
    assert limit(site) == 2_000_000
    assert engines(site) != before
    # The processes of before end with their last image: server, lister, one decoder and the engine remain.
    wait_until(lambda: len(site.daemon.processes()) == 4)


@pytest.mark.parametrize("name", ["echo", REAL])
def test_processes_that_were_replaced_answer_all_they_admitted_though_their_engine_is_killed(
    tmp_path: Path, photo: Path, name: str
) -> None:
    """Images of before hold every slot there and wait for the engine that is killed."""
    other = Site(tmp_path, flags=FEW_SLOTS, **served(name))
    other.write(reload_mode='"beside"')
    with other.daemon, Load(other.daemon, [str(photo)], 1) as load, Load(other.daemon, [str(photo)], 2) as more:
        engine, newcomers = hold_engine(other.daemon, str(photo))
        done = other.reload()
        assert done.returncode == 0, done.stderr
        load.ending.set()
        more.ending.set()
        os.kill(engine, signal.SIGKILL)
        assert {reply["status"] for reply in newcomers.answers()} == {"ok"}
        for client in (load, more):
            client.end()
            assert sorted(reply["id"] for reply in client.answers) == list(range(len(client.asked)))
            assert {reply["status"] for reply in client.answers} == {"ok"}
        wait_until(lambda: len(other.daemon.processes()) == 5)  # what was replaced has ended


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_pixel": 5}, 'unknown setting "max_pixel"'),
        ({"backend": '"abacus"'}, "expected one of"),
        ({"policy": "{other = {}}"}, "[policy.other]"),
    ],
)
def test_what_is_wrong_is_refused_and_the_old_ones_serve_on(
    site: Site, photo: Path, settings: dict[str, object], reason: str
) -> None:
    before, allowed = engines(site), limit(site)
    site.write(**settings)
    done = site.reload()
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (engines(site), limit(site)) == (before, allowed)
    assert ask(site.daemon.unix, {"path": str(photo)})["status"] == "ok"


def test_a_bundle_with_altered_weights_leaves_the_old_one_serving(site: Site, photo: Path) -> None:
    before = engines(site)
    weights = site.file.parent / "models" / "echo" / "model.keras"
    whole = weights.read_bytes()
    weights.write_bytes(b"altered")
    site.write()
    try:
        done = site.reload()
    finally:
        weights.write_bytes(whole)
    assert done.returncode == 1
    assert "model.keras" in done.stderr
    assert engines(site) == before
    assert ask(site.daemon.unix, {"path": str(photo)})["status"] == "ok"


def test_a_version_that_is_refused_names_the_way_back_and_the_old_one_serves_on(site: Site, photo: Path) -> None:
    """Even an engine that has to be started anew meanwhile is one of the version that serves."""
    models = site.file.parent / "models"
    site.write()
    assert site.reload().returncode == 0
    served = ask(site.daemon.unix, {"op": "version"})["models"]
    replace_by_a_broken_version(models)
    done = site.reload()
    assert done.returncode == 1
    assert "a previous version is kept: nsfwd models rollback echo, then nsfwd reload" in done.stderr
    (engine,) = engines(site)
    os.kill(engine, signal.SIGKILL)
    wait_until(lambda: engines(site) not in ([], [engine]))
    reply = ask(site.daemon.unix, {"path": str(photo)})
    assert (reply["status"], reply["model"]) == ("ok", served)
    command = [sys.executable, "-m", "nsfwd.cli.main", "models", "rollback", "echo", "--models-dir", str(models)]
    subprocess.run(command, check=True, capture_output=True)
    assert site.reload().returncode == 0
    assert ask(site.daemon.unix, {"op": "version"})["models"] == served


def replace_by_a_broken_version(models: Path) -> None:
    """As an import does, but nobody looked whether its weights are those that its manifest names."""
    with installing(models), staged(models, "echo") as directory:
        made = echo_bundle(directory / "made", side=48)
        for file in made.iterdir():
            file.rename(directory / file.name)
        made.rmdir()
        (directory / "made").rmdir()
        (directory / "model.keras").write_bytes(b"altered")


def living_engines(site: Site) -> int:
    """Those that serve and those that a reload has replaced and that end."""
    return sum("nsfwd.engines.engine_process" in command for command in site.daemon.processes().values())


class Patient(threading.Thread):
    """Asks for one picture after another until told to end, and looks how many engines live at once."""

    def __init__(self, site: Site, photo: Path) -> None:
        super().__init__()
        self._site, self._photo = site, photo
        self._end = threading.Event()
        self.statuses: list[str] = []
        self.most = 0

    def run(self) -> None:
        while not self._end.is_set():
            self.statuses.append(ask(self._site.daemon.unix, {"path": str(self._photo)})["status"])
            self.most = max(self.most, living_engines(self._site))

    def __enter__(self) -> Self:
        wait_until(lambda: living_engines(self._site) == 1)
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def test_where_memory_holds_one_engine_requests_wait_and_none_fails(site: Site, photo: Path) -> None:
    site.write(reload_mode='"drain"', max_pixels=4_000_000)
    before = engines(site)
    with Patient(site, photo) as load:
        done = site.reload()
        wait_until(lambda: limit(site) == 4_000_000)
    assert done.returncode == 0, done.stderr
    assert "requests waited for the new engine" in done.stdout
    assert set(load.statuses) == {"ok"}
    assert load.most == 1
    assert engines(site) != before


def test_who_waits_for_the_new_engine_may_give_up_and_leaves_nothing_behind(site: Site, photo: Path) -> None:
    site.write(reload_mode='"drain"')
    (before,) = engines(site)
    impatient = [{"id": number, "path": str(photo), "deadline": 0.01} for number in range(30)]
    patient = [{"id": number, "path": str(photo)} for number in range(30, 60)]
    with raw_connect(site.daemon.unix) as reloading, raw_connect(site.daemon.unix) as asking:
        reloading.sendall(spell({"op": "reload"}))
        wait_until(lambda: engines(site) != [before])
        found = {reply["id"]: reply for reply in ndjson(asking, [*impatient, *patient])}
        (answer,) = ndjson(reloading, [])
    assert answer["mode"] == "drain"
    assert {found[request["id"]]["status"] for request in patient} == {"ok"}
    assert {found[request["id"]].get("error", {}).get("code", "") for request in impatient} <= {"", "deadline"}
    stats = ask(site.daemon.unix, {"op": "stats"})
    assert (stats["in_flight"], stats["slots"]["free"]) == (0, stats["slots"]["total"])


def test_a_refused_bundle_brings_the_old_settings_back_also_there(site: Site, photo: Path) -> None:
    models = site.file.parent / "models"
    served, allowed = ask(site.daemon.unix, {"op": "version"})["models"], limit(site)
    replace_by_a_broken_version(models)
    site.write(reload_mode='"drain"', max_pixels=5_000_000)
    with Patient(site, photo) as load:
        done = site.reload()
    with installing(models):
        roll_back(models / "echo")
    assert done.returncode == 1
    assert "model.keras" in done.stderr
    assert set(load.statuses) == {"ok"}
    assert load.most == 1
    assert limit(site) == allowed
    assert ask(site.daemon.unix, {"op": "version"})["models"] == served
    assert ask(site.daemon.unix, {"op": "ready"})["ready"] is True


def test_sighup_reloads_as_well_and_says_why_not(site: Site) -> None:
    site.write(max_pixels=3_000_000)
    os.kill(site.daemon.pid, signal.SIGHUP)
    wait_until(lambda: limit(site) == 3_000_000)
    site.write(nonsense=1)
    os.kill(site.daemon.pid, signal.SIGHUP)
    wait_until(lambda: "reload failed; still serving the previous configuration" in site.daemon.stderr)
    assert limit(site) == 3_000_000


@pytest.mark.parametrize("mode", ["beside", "drain"])
def test_a_stop_ends_a_reload(tmp_path: Path, mode: str) -> None:
    other = Site(tmp_path)
    other.write(reload_mode=f'"{mode}"')
    with other.daemon, raw_connect(other.daemon.unix) as connection:
        connection.sendall(spell({"op": "reload"}))
        # __exit__ sends SIGTERM and sees to it that the daemon leaves with 0 and nothing behind.


def test_a_stranger_may_not(site: Site) -> None:
    assert ask(site.daemon.tcp, {"op": "reload"})["error"]["code"] == "not_permitted"
