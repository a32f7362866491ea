"""The outer loops, one per file."""
