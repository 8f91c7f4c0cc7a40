"""Programs as the gateway's users write them, each with one client library.

They run in .venv-clients with the gateway's address as their argument, fail where an answer isn't
right, and print what was said.
"""
