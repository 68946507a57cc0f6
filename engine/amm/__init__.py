"""Venue mathematics: what a swap against a pool yields, unit for unit as the program has it."""
