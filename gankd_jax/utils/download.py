"""Downloads of published files, checked by their hash."""

import logging
import sys
from pathlib import Path

from gankd_jax.utils.errors import UserError

logger = logging.getLogger(__name__)

TIMEOUT = 60  # seconds to wait for the server at a time, not for the whole file


def download_file(url: str, target: Path, *, sha256: str) -> None:
    """Downloads a file; `target` is written only if the hash is right.

    The file is downloaded even if `target` exists, unless that has the right hash already.

    Args:
        url: Address of the file, by http or https.
        target: Where the file goes; its folder is created.
        sha256: Expected hash, hexadecimal.

    Raises:
        UserError: The file cannot be downloaded or written, or its hash is another one.
    """
    import pooch  # slow to import

    logger.info(f"downloading {url}")
    pooch.get_logger().setLevel("WARNING")
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    try:
        pooch.retrieve(url, sha256, fname=target.name, path=target.parent, downloader=downloader)
    except ValueError as error:
        hashes = str(error).split("known hash: ")[-1].split(". Deleted")[0]
        raise UserError(f"{url} is not the published file (SHA-256: {hashes})") from error
    except OSError as error:  # those of requests too
        raise UserError(f"{url} cannot be downloaded ({error})") from error
