"""The front door: an OpenAI-compatible API before one or more Tritons."""
