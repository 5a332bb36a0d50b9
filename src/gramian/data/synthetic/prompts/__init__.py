"""Prompts for language models with a known right answer."""
