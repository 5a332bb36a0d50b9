"""Parsers of the file formats that the ordinary libraries do not read."""
