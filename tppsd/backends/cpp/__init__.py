"""What computes cached passes and laws in place of a model's own operators: compiled code, CUDA graphs, bfloat16."""
