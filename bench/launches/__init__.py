"""What a call does on a GPU: kernels, waits, bytes moved. Simulated on a machine without one."""
