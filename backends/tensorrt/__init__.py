"""TensorRT: engines built from explicit Q/DQ graphs in a child process, with the proof of what runs in which type."""
