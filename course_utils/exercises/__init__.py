"""The exercise contract; its public names follow."""
