"""Checkpoint to engine: everything that happens before the ship sails."""
