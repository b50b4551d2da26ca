"""Utilities that need no network."""
