"""All settings of the daemon in one table, and their values from a file, the environment and flags.

Flags (``--max-bytes``) win over the environment (``NSFWD_MAX_BYTES``), which wins over a TOML file. An unknown name or
an invalid value is an error of one line that names its place. Knows no room of the house.

    table             the settings: types, defaults, help
    peers             one of the settings: the permissions of users, groups and addresses
    values            conversion of one value: units, types, ranges
    settings_sources  file, environment and flags, and their order
    renames           old names that are still accepted
"""

from nsfwd.config.settings_sources import NOT_SETTINGS, find_file, load_settings
from nsfwd.config.table import BYTES, DEFAULT_LISTEN, SECONDS, TABLE, Setting, Settings
from nsfwd.config.values import parse_model

__all__ = [
    "BYTES",
    "DEFAULT_LISTEN",
    "NOT_SETTINGS",
    "SECONDS",
    "TABLE",
    "Setting",
    "Settings",
    "find_file",
    "load_settings",
    "parse_model",
]
