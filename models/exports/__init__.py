"""What torch's exporters make of about thirty architectures: a generated corpus of models with random weights.

`python -m sardonyx.models.exports FOLDER` writes it. Needs the extra `exports`.
"""
