"""Capture of torch modules: packed layers, conversion, operations of torch."""
