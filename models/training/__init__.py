"""Scripts that train the shipped models; they need the extra `train` and write into `models/data`."""
