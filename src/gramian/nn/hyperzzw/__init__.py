"""A slow network that draws kernels over coordinates, and the fast one that multiplies its maps by them."""
