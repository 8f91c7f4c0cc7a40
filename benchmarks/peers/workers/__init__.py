"""One program for each peer, run by the Python of that peer's own environment.

They import nothing but the peer and ``benchmarks.peers.worker``, which is standard library only.
"""
