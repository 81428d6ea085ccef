"""The metrics: one file each, a pure function over tensors and a thin class that feeds it."""
