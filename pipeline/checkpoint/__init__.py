"""What makes a slice count: plans, packed states, commits, and who owns a partition."""
