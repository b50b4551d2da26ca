"""Passes from graphs to graphs, before they are planned; no torch."""
