"""The fusion passes."""
