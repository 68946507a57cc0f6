"""The public door: accepts orders, answers about them, and streams their events."""
