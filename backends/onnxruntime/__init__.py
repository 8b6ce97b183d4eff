"""The ORT backend."""
