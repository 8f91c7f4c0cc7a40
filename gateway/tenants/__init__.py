"""Tenants: their API keys, the identity providers that they trust, and what each may do."""
