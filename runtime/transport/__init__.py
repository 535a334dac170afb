"""How ranks exchange tensors: MPI, or threads of one process for simulation."""
