"""Measuring Trireme, and Trireme beside its peers."""
