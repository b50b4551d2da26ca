"""Passes over networks before they are planned."""
