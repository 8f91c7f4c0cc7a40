"""Administration: the command `python -m gateway.admin` and the API under `/admin/v1`."""
