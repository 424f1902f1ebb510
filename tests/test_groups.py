from pathlib import Path

import pytest

from tests.support.groups import PROCESS_FILES, WHOLE_FILES

TESTS = Path(__file__).parent


@pytest.mark.parametrize("pattern", [*PROCESS_FILES, *WHOLE_FILES])
def test_each_group_names_files_that_exist(pattern: str) -> None:
    assert list(TESTS.glob(pattern))
