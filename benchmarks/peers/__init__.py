"""``make bench-peers``: Trireme beside other CPU engines, on the same checkpoint and workloads."""
