"""The file of certificates that a store's own certificate is checked against."""

import ssl
from pathlib import Path


def need_certificates(path: Path) -> None:
    """Look whether TLS can use the file; `ValueError`, to follow its name, where not."""
    if not path.exists():
        raise ValueError("names no file that exists")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError:
        # of OSError's kin, and the text is OpenSSL's: it names neither file nor remedy
        raise ValueError("names a file that holds no certificate in PEM form") from None
    except OSError as error:
        raise ValueError(f"names a file that cannot be read ({error.strerror})") from None
