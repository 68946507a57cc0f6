"""Finds the best net price for an order and records the choice."""
