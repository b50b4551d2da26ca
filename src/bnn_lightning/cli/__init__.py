"""Command line: from words to a configuration, from a configuration to workflows. The only room that knows Hydra."""
