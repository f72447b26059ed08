"""The Lightning side of tppsd: data and training modules, callbacks, prediction, and the command line of its verbs."""
