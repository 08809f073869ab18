"""The server: sockets, connections and the daemon's life. Knows requests and replies, but no image and no model."""
