"""One script for each figure that the project quotes, and the harness that runs them."""
