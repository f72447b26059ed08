"""Tests of whether samplers are exact.

Cells cover their methods, models, drafts and starts; tests judge the samples of each.
"""
