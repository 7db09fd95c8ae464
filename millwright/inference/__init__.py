"""Batch inference: a whole fleet predicted at once, kept as a table, and ranked for the planner."""
