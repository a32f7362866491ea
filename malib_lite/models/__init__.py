"""Networks, distributions and preprocessors."""
