"""Families of functions of one variable."""
