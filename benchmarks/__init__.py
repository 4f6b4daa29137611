"""What the project claims of its speed, measured: see benchmarks/README.md."""
