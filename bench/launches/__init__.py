"""The work of a call on a GPU: kernels, waits, bytes. Simulated on a machine without one."""
