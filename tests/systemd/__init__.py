"""The trial of the units under a real systemd; ``run`` starts it."""
