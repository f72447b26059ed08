"""What computes cached passes and distributions in place of a model's own operators: compiled code, CUDA graphs,
bfloat16."""
