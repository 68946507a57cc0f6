"""What whoever brings a venue or a chain promises, as checks that any address can be held to."""
