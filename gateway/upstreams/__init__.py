"""Whom the gateway asks: Triton replicas and OpenAI-compatible providers, and how they fare."""
