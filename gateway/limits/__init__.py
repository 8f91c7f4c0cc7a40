"""Limits: rates, concurrency and quotas, counted in memory or in Redis."""
