"""Why a network answers what it answers: maps, linear interpreters, relevance and its second order."""
