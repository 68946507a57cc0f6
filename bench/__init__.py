"""Benchmarks: the whole engine as processes, what it does in a second and what that costs."""
