"""The geometry of feature matrices: classes that collapse, targets that are followed, dimensions that are used."""
