"""Swap instructions: what each kind of pool's program takes, all of it derived from the terms."""
