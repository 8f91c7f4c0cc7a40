"""The served graphs as typed settings, rendered to ``config.pbtxt``, and the model repository."""
