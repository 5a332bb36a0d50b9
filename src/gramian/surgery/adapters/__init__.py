"""Small trainable parts beside frozen layers: low rank, singular values, Tucker cores; and their files."""
