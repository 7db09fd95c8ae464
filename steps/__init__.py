"""ZenML steps, one file per stage. A step adapts; the library in `millwright/` thinks."""
