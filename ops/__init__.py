"""Running what is served: Triton's and the gateway's processes, reloading, checks.

A person works from here; nothing in this package runs inside Triton or is imported by what does.
"""
