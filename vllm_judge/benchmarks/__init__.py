"""What the demo and the benchmark scripts write, and their sections of a report."""
