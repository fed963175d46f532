"""The artifact: one safetensors file that holds a hardened model and loads safely without its source code."""
