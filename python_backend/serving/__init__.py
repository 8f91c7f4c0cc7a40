"""The three models as Triton's Python backend runs them; each ``1/model.py`` imports one."""
