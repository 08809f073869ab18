"""The line protocol: messages, their spelling, and the session. Pure: no socket, no clock, no task."""
