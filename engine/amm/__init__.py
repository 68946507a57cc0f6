"""Venue mathematics: what a swap against a pool yields, unit for unit as its program computes it."""
