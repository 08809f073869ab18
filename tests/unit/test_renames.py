"""A setting that was renamed is taken under its old name, with a warning, until the version that ends it."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import click
import pytest

from nsfwd.cli import main
from nsfwd.cli.serve import settings_from, settings_options
from nsfwd.config import load_settings
from nsfwd.config.renames import RENAMED, Rename
from nsfwd.errors import SettingsError
from nsfwd.server.context import ServerContext
from nsfwd.server.reloading import Reloader
from nsfwd.systemd import Notifier
from tests.echo_bundle import echo_bundle
from tests.unit.test_connection import FakePipeline


@pytest.fixture(autouse=True)
def renamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(RENAMED, "backlog", Rename("queue", "99.0"))
    monkeypatch.setitem(RENAMED, "ancient", Rename("max_pixels", "0.1"))
    monkeypatch.setattr("nsfwd.config.settings_sources.SYSTEM_FILE", tmp_path / "none.toml")


def file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "nsfwd.toml"
    path.write_text(text)
    return path


def test_every_source_takes_the_old_name_and_warns(tmp_path: Path) -> None:
    path = file(tmp_path, "backlog = 5\n")
    expected = 'this setting is now called "queue"; version 99.0 drops the old name'
    for settings, where in (
        (load_settings(path, {}), f"{path}, key backlog"),
        (load_settings(None, {"NSFWD_BACKLOG": "5"}), "NSFWD_BACKLOG"),
        (load_settings(None, {}, {"backlog": "5"}), "--backlog"),
    ):
        assert settings.queue == 5
        assert settings.given == {"queue": where}
        assert settings.warnings == (f"{where}: {expected}",)


def test_a_value_under_the_old_name_is_checked_as_under_the_new_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="key backlog: invalid value 0: expected int >= 1"):
        load_settings(file(tmp_path, "backlog = 0\n"), {})


def test_both_names_in_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"key backlog: the old name of .*key queue; give one of both"):
        load_settings(file(tmp_path, "queue = 1\nbacklog = 2\n"), {})


def test_a_stronger_source_wins_whatever_the_name(tmp_path: Path) -> None:
    assert load_settings(file(tmp_path, "queue = 1\n"), {"NSFWD_BACKLOG": "2"}).queue == 2
    assert load_settings(file(tmp_path, "backlog = 1\n"), {"NSFWD_QUEUE": "2"}).queue == 2


def test_after_that_version_the_name_is_unknown_and_the_hint_says_the_new_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match='unknown setting "ancient"; it is now called "max_pixels"'):
        load_settings(file(tmp_path, "ancient = 5\n"), {})
    with pytest.raises(SettingsError, match='variable NSFWD_ANCIENT; it is now called "max_pixels"'):
        load_settings(None, {"NSFWD_ANCIENT": "5"})


def test_the_old_flag_works_and_is_not_shown() -> None:
    @click.command()
    @settings_options
    def command(config: Path | None, **flags: Any) -> int:
        return settings_from(config, flags).queue

    assert command.main(["--backlog", "7"], standalone_mode=False) == 7
    [option] = [one for one in command.params if one.name == "backlog"]
    assert isinstance(option, click.Option)
    assert option.hidden
    assert "ancient" not in {one.name for one in command.params}


def test_the_check_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    echo_bundle(tmp_path)
    text = f'backlog = 5\nmodels_dir = "{tmp_path}"\nmodels = ["echo"]\n'
    assert main.run(["config", "check", "--config", str(file(tmp_path, text))]) == 0
    assert capsys.readouterr().err.startswith("warning: ")


def test_a_reload_says_so(caplog: pytest.LogCaptureFixture) -> None:
    settings = load_settings(None, {"NSFWD_BACKLOG": "5"})

    class Pipeline(FakePipeline):
        ready = asyncio.Event()

        async def reload(self, *_: object) -> None:
            """Take anything."""

    async def reload() -> None:
        service = ServerContext(asyncio.get_running_loop(), settings, Pipeline())
        reloader = Reloader(lambda: (settings, ()), service, service.pipeline, Notifier({}), str)  # type: ignore[arg-type]
        await reloader.reload()

    with caplog.at_level(logging.WARNING, "nsfwd"):
        asyncio.run(reload())
    assert 'NSFWD_BACKLOG: this setting is now called "queue"' in caplog.text
