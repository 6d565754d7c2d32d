"""The benchmarks' parts that need no node and measure nothing."""
