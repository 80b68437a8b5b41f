"""Evaluation: scores of the best checkpoint turned into figures with errors."""
