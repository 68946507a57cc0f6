"""A simulated chain and the venues on it: a foreign system to the engine."""
