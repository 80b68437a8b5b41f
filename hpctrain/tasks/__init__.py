"""What is learned: phases, losses and metrics of one kind of problem."""
