"""Talking to a running Trireme: the Python client, its command line, and perf_analyzer runs."""
