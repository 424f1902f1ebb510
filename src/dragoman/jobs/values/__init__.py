"""Values shared by all parts of the queue."""
