"""Immutable, numbered, signed builds, and which of them is served."""
