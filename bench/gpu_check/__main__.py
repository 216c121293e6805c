"""`python -m bench.gpu_check`, which does not import the packages that a machine may lack."""

from bench.cli.gpu_check_command import gpu_check

if __name__ == "__main__":
    gpu_check()
