"""Comparison of packed networks with their originals, time and memory of each part."""
