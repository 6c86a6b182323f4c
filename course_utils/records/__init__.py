"""Room of recorded runs: long or many-seed experiments, their results as CSV, and how to rerun
them."""
