"""APIs over HTTP and WebSocket: a translator each, and what all of them share."""
