"""Every setting of the daemon in one table, and how a value gets into it.

A TOML file is weaker than the environment (``NSFWD_MAX_BYTES``), which is weaker than flags (``--max-bytes``). Unknown
names and wrong values are refused with one line that says where they stand. Knows no room of the house.

    table     what there is to set
    peers     one of the settings: who may do what
    values    one value: units, types, ranges
    loading   the sources, and which of them wins
    renames   old names that are still taken
"""

from nsfwd.config.settings_sources import NOT_SETTINGS, find_file, load_settings
from nsfwd.config.table import BYTES, DEFAULT_LISTEN, GIB, KIB, MIB, SECONDS, TABLE, Setting, Settings
from nsfwd.config.values import parse_model

__all__ = [
    "BYTES",
    "DEFAULT_LISTEN",
    "GIB",
    "KIB",
    "MIB",
    "NOT_SETTINGS",
    "SECONDS",
    "TABLE",
    "Setting",
    "Settings",
    "find_file",
    "load_settings",
    "parse_model",
]
