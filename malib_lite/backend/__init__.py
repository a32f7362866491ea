"""The data plane: rings, parameters, stores, and their in-process twins."""
