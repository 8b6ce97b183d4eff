"""The folding passes."""
