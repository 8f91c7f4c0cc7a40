"""Calls of functions and thinking: how families write them, and how an answer is read."""
