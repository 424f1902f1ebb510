"""`dragoman serve` as a child of a replica: the kernel ends it when that dies."""

from dragoman.cli.main import main
from dragoman.core.child_process import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    main()
