"""What an operator sees: metrics, traces and logs. None of them holds a prompt or an answer."""
