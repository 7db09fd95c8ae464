"""The verb `doctor`: what is wrong with an environment, and the command that mends it."""
