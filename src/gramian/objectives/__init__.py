"""What training minimises: losses, regularizers, and the targets that a text makes for itself."""
