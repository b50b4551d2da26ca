"""Command line: from words to a configuration, from a configuration to workflows. The only package that knows Hydra."""
