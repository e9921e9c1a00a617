"""Lines that are read strictly, and files that are whole or not there, on this machine's disk or behind a URL."""
