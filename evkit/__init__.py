"""evkit."""
