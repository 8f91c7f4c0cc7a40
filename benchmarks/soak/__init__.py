"""``make bench-soak``: the whole server under mixed load for as long as one likes."""
