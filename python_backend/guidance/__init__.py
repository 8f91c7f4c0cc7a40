"""Guided decoding: text that keeps to a JSON schema, a regular expression or a grammar."""
