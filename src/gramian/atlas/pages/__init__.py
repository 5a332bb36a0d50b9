"""Evidence as pages: reports, the README's table, the site."""
