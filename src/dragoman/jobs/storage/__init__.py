"""Read and write jobs in the database."""
