"""What the services share: the order, its record, its queues, its wire."""
