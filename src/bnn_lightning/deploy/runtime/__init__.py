"""Execution of packed networks."""
