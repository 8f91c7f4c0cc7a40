"""Running the fleet: Triton's process, load, drills, canary and rollback, sizing, cost.

A person works from here; nothing in this package runs inside Triton or is imported by what does.
"""
