"""Intermediate representation of packed networks; needs no torch."""
