"""Models that the app knows."""
