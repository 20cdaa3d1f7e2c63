"""What requests cost."""

import pytest

from sysbackup.config.sections import Prices
from sysbackup.store.accounting import BILLED, Requests


def test_requests_are_priced_by_their_kind() -> None:
    """Writes cost more than ten times what reads cost; aborts are free; what is not known is priced as a write."""
    requests = Requests()
    requests.add("PutObject", 1000)
    assert requests.price(Prices()) == pytest.approx(0.005)
    requests.add("GetObjectRetention", 1000)
    assert requests.price(Prices()) == pytest.approx(0.0054)
    requests.add("AbortMultipartUpload", 1000)
    assert requests.price(Prices()) == pytest.approx(0.0054)
    requests.add("HeadBucket", 1000)
    assert requests.price(Prices()) == pytest.approx(0.0104)
    assert requests.total == 4000


def test_every_request_of_the_store_has_a_price() -> None:
    """So that nothing is estimated by accident."""
    asked = {"PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload"}
    asked |= {"PutObjectRetention", "GetObjectRetention", "GetObject", "HeadObject"}
    asked |= {"ListObjectsV2", "ListObjectVersions"}
    assert asked == set(BILLED)
