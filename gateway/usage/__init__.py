"""Usage: the audit log summed up by day, tenant, application, key and model, with prices."""
