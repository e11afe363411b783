"""One answer for /livez and /readyz, whatever a check does."""

from core.errors import StoreError
from monitoring.health import Report, examine


def fine() -> None:
    return None


def broken() -> str:
    raise StoreError("The database is locked. Wait a moment.")


def test_when_nobody_complains_it_is_200() -> None:
    report = examine({"disk": fine, "database": fine})

    assert (report.is_ok, report.status) == (True, 200)
    assert report.to_dict() == {"status": "ok", "checks": {"disk": "ok", "database": "ok"}}


def test_one_complaint_makes_it_503_and_says_why() -> None:
    report = examine({"disk": lambda: "10 bytes free; make room", "database": fine})

    assert (report.is_ok, report.status) == (False, 503)
    assert report.to_dict() == {
        "status": "unavailable",
        "checks": {"disk": "10 bytes free; make room", "database": "ok"},
    }


def test_a_check_that_raises_is_a_complaint_and_the_others_are_still_asked() -> None:
    asked = []
    report = examine({"database": broken, "last": lambda: asked.append(1)})

    assert report.status == 503
    assert report.complaints["database"] == ("StoreError: The database is locked. Wait a moment.")
    assert asked == [1]


def test_without_checks_all_is_well() -> None:
    assert examine({}) == Report({})
    assert Report({}).is_ok


def test_every_check_is_asked_anew_each_time() -> None:
    complaints = ["down", None]

    assert [examine({"x": complaints.pop}).status for _ in range(2)] == [200, 503]
