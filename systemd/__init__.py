"""Units and configuration for systemd, shipped in the wheel; ``make install`` puts them where systemd looks."""
