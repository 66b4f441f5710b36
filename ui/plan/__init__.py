"""What several screens show of a plan."""
