"""The table of settings: what may be given where, and what is refused in one line."""

from pathlib import Path
from typing import Any

import pytest

from nsfwd.config import NOT_SETTINGS, TABLE, Settings, find_file, load_settings, parse_model
from nsfwd.engines.echo import VARIABLE
from nsfwd.errors import SettingsError
from nsfwd.quantities import MIB


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "nsfwd.toml"
    path.write_text(text)
    return path


def test_every_setting_has_help_and_a_reason() -> None:
    for row in TABLE.values():
        assert row.help.endswith("."), row.name
        assert row.reason, row.name


PLACES = ("cache_dir", "overrides")
"""Settings whose default is empty, and stands for a place that depends on the environment."""


def test_every_default_passes_its_own_check() -> None:
    flags = {row.name: list(row.default) if row.many else row.default for row in TABLE.values() if row.flag}
    loaded = load_settings(None, {}, {name: value for name, value in flags.items() if name not in PLACES})
    assert {name: getattr(loaded, name) for name in TABLE if name not in PLACES} == {
        name: row.default for name, row in TABLE.items() if name not in PLACES
    }


def test_environment_is_stronger_than_the_file_and_flags_than_both(tmp_path: Path) -> None:
    file = _file(tmp_path, 'queue = 1\nmax_depth = 2\ndecoders = 3\nlog_level = "debug"\n')
    environ = {"NSFWD_MAX_DEPTH": "20", "NSFWD_DECODERS": "30", "PATH": "/bin"}
    settings = load_settings(file, environ, {"decoders": 300, "queue": None})
    assert (settings.queue, settings.max_depth, settings.decoders) == (1, 20, 300)
    assert settings.log_level == "debug"
    assert settings.given["queue"] == f"{file}, key queue"
    assert settings.given["max_depth"] == "NSFWD_MAX_DEPTH"
    assert settings.given["decoders"] == "--decoders"


def test_variables_that_are_read_elsewhere_are_no_settings() -> None:
    assert load_settings(None, dict.fromkeys(NOT_SETTINGS, "x")).given == {}
    assert VARIABLE in NOT_SETTINGS


def test_a_setting_not_given_is_its_default() -> None:
    settings = load_settings(None, {})
    assert settings.roots == ("/",)
    assert not settings.is_given("roots")
    assert load_settings(None, {}, {"roots": ["/"]}).is_given("roots")


def test_lists_in_the_environment_are_split_like_a_shell_does() -> None:
    settings = load_settings(
        None, {"NSFWD_ROOTS": "/data '/my pictures'", "NSFWD_LISTEN": "tcp:[::1]:1 unix:/s,mode=0600"}
    )
    assert settings.roots == ("/data", "/my pictures")
    assert settings.listen == ("tcp:[::1]:1", "unix:/s,mode=0600")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("max_bytes", "1024", 1024),
        ("max_bytes", "32MiB", 32 * MIB),
        ("max_bytes", "1.5 kB", 1500),
        ("idle_timeout", "0", 0.0),
        ("idle_timeout", "1.5h", 5400.0),
        ("decode_timeout", "250ms", 0.25),
        ("idle_timeout", "2d", 172800.0),
    ],
)
def test_sizes_and_durations_may_have_units(tmp_path: Path, name: str, text: str, value: float) -> None:
    assert getattr(load_settings(None, {TABLE[name].variable: text}), name) == value
    assert getattr(load_settings(_file(tmp_path, f'{name} = "{text}"\n'), {}), name) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_byte = 3", 'unknown setting "max_byte"; did you mean "max_bytes"?'),
        ("given = {}", 'unknown setting "given"'),
        ("frobnicate = 3", 'unknown setting "frobnicate"; see nsfwd config show'),
        ("queue = 0", "key queue: invalid value 0: expected int >= 1"),
        ('queue = "many"', "key queue: invalid value 'many': expected int, got str"),
        ("queue = 1.5", "key queue: invalid value 1.5: expected int, got float"),
        ("queue = true", "key queue: invalid value True: expected int, got bool"),
        ("deadline = nan", "key deadline: invalid value nan"),
        ("deadline = inf", "key deadline: invalid value inf: must be finite"),
        ('max_bytes = "64 MB of them"', "key max_bytes: invalid size '64 MB of them': write"),
        ('engine = "onnx"', "invalid value 'onnx': expected one of auto, keras, openvino, echo"),
        ('roots = ["data"]', "invalid value 'data': a root must be an absolute path"),
        (f"roots = {['/' + 'r' * 4000 + str(number) for number in range(17)]}", "more than 64 KiB together"),
        ("roots = []", "invalid value []: expected array of length >= 1"),
        ('roots = "/data"', "expected array, got str"),
        ('models = ["../x"]', "invalid value '../x': expected NAME"),
        ("policy = 3", "key policy: invalid value 3: expected object"),
        ("queue = ", "not valid TOML"),
        ("queue = " + "[" * 50_000, "not valid TOML: nested too deeply"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    file = _file(tmp_path, text + "\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(file, {})
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"NSFWD_MAX_BYTE": "3"}, 'NSFWD_MAX_BYTE; did you mean "NSFWD_MAX_BYTES"?'),
        ({"NSFWD_POLICY": "x"}, "unknown environment variable NSFWD_POLICY"),
        ({"NSFWD_DECODERS": ""}, "NSFWD_DECODERS: invalid value ''"),
        ({"NSFWD_ROOTS": ""}, "NSFWD_ROOTS: invalid value []"),
        ({"NSFWD_ROOTS": "'/x"}, "NSFWD_ROOTS: No closing quotation"),
    ],
)
def test_what_is_wrong_in_the_environment(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, environ)
    assert message in str(caught.value)


def test_what_is_wrong_in_a_flag_names_the_flag() -> None:
    with pytest.raises(SettingsError, match=r"^--max-depth: invalid value 0"):
        load_settings(None, {}, {"max_depth": 0})
    with pytest.raises(SettingsError, match=r"^--model: invalid value 'a='"):
        load_settings(None, {}, {"models": ("a=",)})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        load_settings(tmp_path / "none.toml", {})
    bad = tmp_path / "latin1.toml"
    bad.write_bytes(b"# \xe9\n")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load_settings(bad, {})


def test_a_policy_is_kept_as_it_stands(tmp_path: Path) -> None:
    file = _file(tmp_path, "[policy.nsfw]\ngroups = {sensitive = ['porn']}\n")
    expected: dict[str, Any] = {"nsfw": {"groups": {"sensitive": ["porn"]}}}
    assert load_settings(file, {}).policy == expected


def test_the_file_is_chosen_by_flag_then_variable(tmp_path: Path) -> None:
    assert find_file(Path("/a"), {"NSFWD_CONFIG": "/b"}) == Path("/a")
    assert find_file(None, {"NSFWD_CONFIG": "/b"}) == Path("/b")


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"CACHE_DIRECTORY": "/var/cache/nsfwd:/other", "HOME": "/h"}, "/var/cache/nsfwd"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/nsfwd"),
        ({"HOME": "/h"}, "/h/.cache/nsfwd"),
        ({"HOME": "/h", "NSFWD_CACHE_DIR": "/c"}, "/c"),
    ],
)
def test_the_cache_directory_has_a_sensible_place(environ: dict[str, str], cache: str) -> None:
    assert load_settings(None, environ).cache_dir == cache


@pytest.mark.parametrize(
    ("environ", "store"),
    [
        ({"STATE_DIRECTORY": "/var/lib/nsfwd:/other", "HOME": "/h"}, "/var/lib/nsfwd/overrides.sqlite"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/nsfwd/overrides.sqlite"),
        ({"HOME": "/h"}, "/h/.local/state/nsfwd/overrides.sqlite"),
        ({"HOME": "/h", "NSFWD_OVERRIDES": "none"}, "none"),
    ],
)
def test_the_store_of_overrides_has_a_sensible_place(environ: dict[str, str], store: str) -> None:
    assert load_settings(None, environ).overrides == store


def test_settings_of_two_daemons_share_nothing() -> None:
    assert Settings() == Settings()
    assert Settings().policy is not Settings().policy


def test_model_names() -> None:
    assert parse_model("big-model=nsfw") == ("big-model", "nsfw")
    assert parse_model("big-model") == ("big-model", "big-model")
