from dragoman.ray_serve.follower import UpstreamFollower


class Upstreams:
    """Stored upstreams, whose names count up."""

    def __init__(self, **urls: str) -> None:
        self.urls = urls
        self._count = len(urls)

    def follower(self) -> UpstreamFollower:
        return UpstreamFollower({url: name for name, url in self.urls.items()}, self._add, self._remove)

    def _add(self, url: str) -> str:
        self._count += 1
        self.urls[f"a{self._count}"] = url
        return f"a{self._count}"

    def _remove(self, name: str) -> None:
        del self.urls[name]


def test_upstreams_are_what_replicas_are() -> None:
    upstreams = Upstreams()
    follower = upstreams.follower()
    follower.follow({"http://one", "http://two"})
    assert upstreams.urls == {"a1": "http://one", "a2": "http://two"}
    follower.follow({"http://two", "http://three"})
    assert upstreams.urls == {"a2": "http://two", "a3": "http://three"}
    follower.follow(())
    assert upstreams.urls == {}


def test_what_an_earlier_run_has_left_is_kept_where_it_still_runs_and_removed_where_not() -> None:
    upstreams = Upstreams(a1="http://one", a2="http://two")
    upstreams.follower().follow({"http://two"})
    assert upstreams.urls == {"a2": "http://two"}
