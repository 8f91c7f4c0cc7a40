"""No engine is published unless it was measured, through the engine that will serve it."""
