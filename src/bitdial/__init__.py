"""Train neural networks whose numeric precision follows a schedule."""
