"""Where runs are made: on this machine, on Slurm."""
