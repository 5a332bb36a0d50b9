"""Matrix states with one gate a head (or none), compiled: the whole recurrence over tiles that stay in cache."""
