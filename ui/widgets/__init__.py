"""Widgets that know nothing of models or machines; they can be shown alone."""
