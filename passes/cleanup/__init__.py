"""The cleanup passes."""
