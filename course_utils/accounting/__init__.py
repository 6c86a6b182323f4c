"""What a model costs, counted from its configuration alone. Loads no torch."""
