"""Find papers and tasks by what their source says, importing none of them."""
