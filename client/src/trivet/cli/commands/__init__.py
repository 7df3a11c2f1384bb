"""One module for each command, or for a group of them; imported when it is called and not before."""
