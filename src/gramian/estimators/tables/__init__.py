"""Estimators of tables with numbers and categories: encodings, and networks that scan the columns."""
