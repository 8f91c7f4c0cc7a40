"""Load tests with perf_analyzer: how fast a served ensemble is, at which concurrency.

`profile` turns perf_analyzer's record of one run into numbers, `report` keeps and tells them,
`picture` draws them, `load` runs perf_analyzer; `python -m clients.perf` does it all.
"""
