"""Cleanup: what can go without changing any result."""
