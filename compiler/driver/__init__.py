"""The driver: from file to artefact."""
