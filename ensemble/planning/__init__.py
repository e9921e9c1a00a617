"""What goes where, worked out before anything starts; it knows machines by their sizes alone."""
