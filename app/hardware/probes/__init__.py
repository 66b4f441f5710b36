"""Sources of facts about the machine; each fails alone."""
