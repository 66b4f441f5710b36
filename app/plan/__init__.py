"""Memory per layer and device, and the placement of layers: pure functions."""
