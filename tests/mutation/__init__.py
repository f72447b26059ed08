"""Plants mistakes in a copy of the package, one at a time, and runs the tests that must catch each."""
