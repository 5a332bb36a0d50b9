"""What tasks share: their contract, saving and loading, the inputs and models that several of them take."""
