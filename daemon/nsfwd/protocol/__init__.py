"""The line protocol: messages, their text form, and the session. Pure: no socket, no clock, no task."""
