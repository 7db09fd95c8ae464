"""Feast's own universal tests of offline stores, pointed at ours."""
