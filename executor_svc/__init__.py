"""Swaps routed orders at their venue, each at most once, and follows them to the end."""
