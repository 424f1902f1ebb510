"""Plain frozen values that cross every boundary: requests, events, errors. Core imports nothing of dragoman."""
