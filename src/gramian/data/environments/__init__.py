"""Environments of gymnasium, seen through pixels."""
