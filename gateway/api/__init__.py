"""OpenAI's API over HTTP and WebSocket: requests to jobs, pieces to answers and chunks."""
