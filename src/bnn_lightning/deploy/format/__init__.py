"""Packed files."""
