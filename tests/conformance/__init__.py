"""Small cases that say what CUDA does, run on a real GPU and on the virtual one; see `run` and `test_conformance`."""
