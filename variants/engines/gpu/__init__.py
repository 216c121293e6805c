"""Kernels for a GPU, written in Triton. The kernels that `x.py` launches are in
`x_kernels.py`."""
