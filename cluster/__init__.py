"""mdzoo's cluster room: runs the stages of a zoo as Ray tasks, and the program `mdzoo`."""
