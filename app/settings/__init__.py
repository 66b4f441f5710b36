"""Typed settings, stored atomically."""
