"""What one tenant feels of another that sends the worst that is accepted."""
