"""Millwright: predict which machines of a fleet will fail soon."""
