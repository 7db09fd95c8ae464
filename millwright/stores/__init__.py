"""Stores that Feast reads and writes features through, and what they are built from."""
