"""The types of settings that are shown nowhere."""

from typing import Annotated, TypeAlias

from msgspec import Meta

IS_SECRET = "is_secret"
"""In the `extra` of a type's Meta: the value is shown nowhere."""

SecretSetting: TypeAlias = Annotated[str, Meta(min_length=1, extra={IS_SECRET: True})]
LongSecret: TypeAlias = Annotated[str, Meta(min_length=16, extra={IS_SECRET: True})]
"""A secret that we or the operator choose, so that nobody can guess it."""
