"""The commands of `tppsd`, each a module with `main(args)`."""
