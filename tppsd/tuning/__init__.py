"""Which chain or tree is fastest? What passes cost and what is accepted are measured, all shapes compared, the best few
timed."""
